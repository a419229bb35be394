"""What the report says about a run besides its scores: models, sets, settings, machine, and what was not tested."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..attacks import ATTACKS
from ..attacks.composed import kind_of
from ..data.example import Example
from ..errors import RequestError
from ..hub.files import is_model_file
from ..models.gguf_source import source_of
from ..models.own_tokenizer import tokenizer_source
from ..models.scratch import ScratchSpec
from ..quantization import FORMATS
from ..quantization.explain import explain_job, grids_of
from ..recipe import DataSpec, Recipe
from ..recipe.method_settings import completed
from ..runtime.files import write_private
from ..runtime.jobs import Job
from ..verification.digests import new_salt, salted_hash
from ..verification.explanation import ExplainedModel, Explanation
from ..verification.report import FormatInfo, ModelInfo, SetInfo
from ..verification.typed_json import from_json
from .context import RunContext, Subject
from .export import INFO_FILE
from .models import with_local_base
from .plans import METRICS_FILE
from .units import file_digests, fingerprint, read_manifest

SALT_FILE = "salt.hex"
_NEVER_TESTED = ("membership inference", "what somebody can do who still has the target")


def not_tested(recipe: Recipe) -> list[str]:
    """Formats and attacks that the recipe does not run, and what the package does not test at all, one phrase each.

    This is the only such list: report, card and terminal show it. What was run but not judged is not part of
    it.
    """
    formats = untested_formats(recipe.export.formats)
    run = {kind_of(name, attack) for name, attack in recipe.attack.items()}
    attacks = [name for name in ATTACKS.names() if name not in run]
    return [
        f"the formats {', '.join([*formats, 'and any other'])}" if formats else "any format that is not named",
        *([f"the attacks {', '.join(attacks)}"] if attacks else []),
        *_NEVER_TESTED,
    ]


def untested_formats(tested: Collection[str]) -> list[str]:
    """Formats that this package writes, people download, and that are not among the tested ones.

    There are dozens, so they are named by family: ``all of gguf-…`` if none of them was tested, ``others of bnb-…`` if
    some were, and by name if only one is left.
    """
    families: dict[str, list[str]] = {}
    for entry in FORMATS.entries():
        if entry.value.published:
            families.setdefault(entry.name.partition("-")[0], []).append(entry.name)
    whole, single = [], []
    for family, names in families.items():
        left = [name for name in names if name not in tested]
        if len(left) == 1:
            single.append(left[0])
        elif left:
            whole.append(f"{'all' if left == names else 'others'} of {family}-…")
    return [*sorted(whole), *sorted(single)]


def explain_stage(context: RunContext, target: Subject, subjects: Sequence[Subject]) -> Explanation:
    """Compare every model that was made from the target with it, on the grids of the run's formats."""
    grids = grids_of(context.recipe.export.formats)
    names = list(dict.fromkeys(grids.values()))
    jobs = [
        Job(subject.name, explain_job, (target.folder, subject.folder, names))
        for subject in subjects
        if _comes_from_the_target(context, subject)
    ]
    found = {job.title: result for job, result in context.workers.run(jobs)}
    # In the order of the subjects, not in the order they finished: equal runs have equal reports.
    models = [{"model": job.title, **found[job.title], **_saved(context, job.title)} for job in jobs]
    return Explanation(grids, tuple(from_json(ExplainedModel, model) for model in models))


def export_info(context: RunContext, subject: Subject, format_name: str) -> FormatInfo:
    """What the export of a format recorded about it."""
    path = context.variant(subject, format_name) / INFO_FILE
    return from_json(FormatInfo, json.loads(path.read_text(encoding="utf-8")))


def _comes_from_the_target(context: RunContext, subject: Subject) -> bool:
    """Never-knew models were trained separately: comparing their weights with the target's says nothing."""
    apart = {control.name for control in context.recipe.controls if control.kind == "never_knew"}
    return subject.role in ("method", "control") and subject.name not in apart


def _saved(context: RunContext, name: str) -> dict[str, Any]:
    path = context.folder("train", name) / METRICS_FILE
    if not path.exists():
        return {}
    metrics = json.loads(path.read_text(encoding="utf-8"))
    return {"saved": metrics["saved"]} if metrics.get("saved") else {}


def model_info(context: RunContext, subject: Subject) -> ModelInfo:
    """What the report says about a model used for comparison; never a local path."""
    spec = context.recipe.model
    name, revision = (
        (spec.target, spec.target_revision)
        if subject.name == "target"
        else (spec.never_knew, spec.never_knew_revision)
    )
    files = model_files(subject.folder)
    if spec.scratch is not None:
        return ModelInfo(description=_built_from(spec.scratch), files=files)
    tokenizer = tokenizer_source(subject.folder)
    with_tokenizer = "" if tokenizer is None else str(tokenizer)
    if (source := source_of(subject.folder)) is not None:
        told = f"{source} {with_tokenizer}".rstrip()
        return ModelInfo(description=told, files={**files, source.file: source.sha256})
    if name is not None and not Path(name).is_dir():
        commit = subject.folder.name if tokenizer is None else tokenizer.model
        return ModelInfo(hub_id=name, revision=revision or commit, description=with_tokenizer, files=files)
    return ModelInfo(description=f"local model {with_tokenizer}".rstrip(), files=files)


def _built_from(spec: ScratchSpec) -> str:
    if spec.base is None:
        return "small model built from the recipe's data"
    folder = with_local_base(spec).base
    assert folder is not None  # it has one
    source = source_of(Path(folder))
    if source is not None:
        name = str(source)
    else:
        name = "a local model" if Path(spec.base).is_dir() else spec.base
    return f"fine-tuned on the recipe's data from its base: {name}"


def scored_files(context: RunContext, subject: Subject) -> dict[str, dict[str, str]]:
    """SHA-256 of the model files that were scored, by transform."""
    return {name: model_files(context.variant(subject, name)) for name in context.transforms}


def model_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that make up a model (weights, configuration, tokenizer).

    Of what this run made they are those from when it was made, which its scores belong to.
    """
    manifest = read_manifest(folder)
    digests = manifest["outputs"] if manifest is not None else file_digests(folder)
    return {name: digest for name, digest in digests.items() if is_model_file(name)}


def set_info(rows: Sequence[Example], salt: bytes) -> SetInfo:
    """Size and salted hash of a set."""
    return SetInfo(
        len({row.fact for row in rows}), len(rows), salted_hash(((row.prompt, row.answer) for row in rows), salt)
    )


def run_salt(context: RunContext) -> bytes:
    """The salt of this run's hashes. It stays in the run folder: with it, guesses at the forget set could be checked.

    Planted facts are no secret, so their salt follows from the seed and equal runs have equal reports.
    """
    if context.recipe.data.planted is not None:
        return hashlib.sha256(f"planted-{context.recipe.data.planted.seed}".encode()).digest()
    path = context.output_dir / SALT_FILE
    if not path.exists():
        write_private(path, new_salt().hex())
    try:
        salt = bytes.fromhex(path.read_text(encoding="utf-8").strip())
    except (ValueError, IsADirectoryError):
        salt = b""
    if not salt:
        raise RequestError(f"{path} is damaged: remove it and the folder verify, and run the same command again")
    return salt


def environment(context: RunContext) -> dict[str, Any]:
    """Versions, machine and seed."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "versions": dict(context.versions),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "dtype": context.recipe.model.dtype,
        "seed": context.recipe.seed,
        "recipe": fingerprint(context.recipe.to_dict()),
    }


def method_settings(context: RunContext, name: str) -> dict[str, Any]:
    """What a method was given, and what its training took and found; of a checkpoint on the Hub, which one it is."""
    training = context.folder("train", name) / METRICS_FILE
    method = context.recipe.method(name)
    settings = completed(method.settings)
    if method.checkpoint is not None and not Path(method.checkpoint).is_dir():
        settings = {"checkpoint": method.checkpoint, "revision": method.revision}
    if training.exists():
        metrics = json.loads(training.read_text(encoding="utf-8"))
        settings["steps_taken"] = metrics.get("steps")
        settings["stepping"] = metrics.get("stepping", "fp32")
        if (found := metrics.get("learning_rate")) is not None:
            settings["found_learning_rate"] = found["rate"]
    return settings


def described(data: DataSpec) -> str:
    """What was removed, in words that give nothing away; empty where nobody has said it, as an audit may."""
    if data.description or data.planted is None:
        return data.description
    return f"birth years of {data.planted.forget} people who do not exist"


def description(data: DataSpec) -> str:
    """The same for what is published, which must say it.

    Raises:
        RequestError: It does not.
    """
    words = described(data)
    if not words:
        raise RequestError("data.description is empty: say in your own words what the model was made to forget")
    return words
