"""Attacks on a single model and those it is compared with: what ``hf-unlearn attack MODEL`` does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..attacks.base import Attack, AttackResult
from ..attacks.composed import after_of
from ..attacks.dequantize import is_quantized, write_dequantized
from ..data.checks import check_bundle
from ..data.encoding import TextFormat, encode_row, load_tokenizer
from ..data.example import EMPTY_SET, DataBundle
from ..data.form import decide_form
from ..data.sources import load_source, prompt_column
from ..errors import RequestError
from ..models.gguf_source import fetch_model
from ..models.loading import empty_model
from ..planning.machines import this_machine
from ..quantization import FORMATS
from ..quantization.calibration import Calibration
from ..recipe import Recipe
from ..recipe.attack_request import AttackRequest
from ..runtime.files import write_atomically
from ..runtime.jobs import Workers
from ..runtime.processes import is_main_process, wait_for_everyone, world_size
from ..runtime.progress import Progress
from ..verification.intervals import Bootstrap, recovered_share
from ..verification.recovered import ShareMeter
from ..verification.recovery import recovery_rows
from ..verification.references import Floors, Reference
from ..verification.scores import FactScores, ScoreKey, ScoreTable
from ..verification.typed_json import to_json
from .attack import attack_result
from .context import VERSIONED, Role, RunContext, Subject, data_fingerprint, library_version, library_versions
from .data import load_data
from .ends import settle_ends
from .models import base_models
from .settled import OTHER_FORM
from .settled_tuning import decisions, settle_tuning
from .units import RUN_FILE, Unit, file_digests, fingerprint, prepare_output_dir

RESULT_FILE = "attacks.json"
SCHEMA_VERSION = 1


@dataclass
class SingleModel:
    """What stages know about a model that is attacked by itself, see :class:`~hf_unlearn.stages.context.Context`."""

    output_dir: Path
    bundle: DataBundle
    workers: Workers
    progress: Progress
    attacks: Mapping[str, Attack]
    text_format: TextFormat
    attack_metrics: tuple[str, ...]

    @cached_property
    def data_digest(self) -> str:
        """Fingerprint of every row."""
        return data_fingerprint(self.bundle, self.text_format)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide the numbers."""
        return library_versions()

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats that attacks start from."""
        return tuple(sorted({after for attack in self.attacks.values() if (after := after_of(attack)) is not None}))

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """None: there is no text to calibrate on."""
        return {}

    @property
    def times_attacks(self) -> bool:
        """Seconds are always reported: nothing else is said about an attack before it starts."""
        return True

    def folder(self, stage: str, subject: str) -> Path:
        """Attacks are in one folder per model, quantized variants in another."""
        return self.output_dir / subject if stage == "attack" else self.output_dir / stage / subject

    def export_unit(self, subject: Subject, format_name: str) -> Unit:
        """The folder of one quantized variant."""
        inputs = {"stage": "export", "model": subject.digest, "format": format_name, "versions": self.versions}
        package = FORMATS.get(format_name).value.package
        if package not in VERSIONED:  # `versions` has those
            inputs["library"] = library_version(package)
        return Unit(self.folder("export", subject.name) / format_name, inputs)


@dataclass
class SingleRun:
    """What stages are given to attack one model, see :class:`~hf_unlearn.stages.context.AnyRun`.

    Attributes:
        context: Rows, attacks, folders, workers and progress.
        subjects: The model and those it is compared with.
        target: The model before unlearning, if it is given; it need not be among ``subjects``.
        is_main: Whether this is the main process of the launch.
    """

    context: SingleModel
    subjects: list[Subject]
    target: Subject | None
    is_main: bool


@dataclass(frozen=True)
class NamedModels:
    """The models of an attack on one, each a folder or Hub id.

    Attributes:
        model: The attacked one.
        revision: Its branch, tag or commit on the Hub.
        target: The model before unlearning; the recipe's, if there is one, when left out.
        never_knew: A model that never knew; likewise.
        alone: Attack only ``model``.
    """

    model: str
    revision: str | None = None
    target: str | None = None
    never_knew: str | None = None
    alone: bool = False


@dataclass(frozen=True)
class AttackedModel:
    """What attacks on one model brought back.

    Attributes:
        models: Names of the attacked models.
        table: See :func:`attack_table`.
    """

    models: list[str]
    table: dict[str, Any]


def load_rows(request: AttackRequest, models: NamedModels) -> tuple[AttackRequest, DataBundle]:
    """The requested rows: a recipe's, or those of single files.

    Returns:
        The request without what it left to the target, or to the model where no target is named; and the rows.

    Raises:
        RequestError: A file, a column or a row is missing, or the sets do not fit each other.
        EnvironmentFailure: The Hub could not be reached.
    """
    if request.recipe is not None:
        # Attacks are those that were asked for, and they widen what is saved in 16 bits.
        model = replace(request.recipe.model, dtype="float32")
        recipe, bundle = load_data(replace(request.recipe, model=model, attack_left_out=(OTHER_FORM,)))
        return replace(request, recipe=recipe, text_format=recipe.data.format), bundle
    assert request.data is not None  # a request has one of the two
    sets = {name: load_source(source, name) for name, source in request.data.sources.items()}
    retain, holdout, generic = (sets.get(name, EMPTY_SET) for name in ("retain", "holdout", "generic"))
    bundle = DataBundle(sets["forget"], retain, holdout, generic)
    if bundle.retain.score:  # many attacks need nothing but the rows to ask for
        check_bundle(bundle)
    if request.text_format.kind != "auto":
        return request, bundle
    asked = models.target or models.model
    folder = fetch_model(asked, models.revision if models.target is None else None, "MODEL")
    decision = decide_form(
        bundle.forget,
        load_tokenizer(str(folder)),
        request.text_format,
        column=prompt_column(request.data.sources["forget"]),
    )
    settled = replace(request, text_format=replace(request.text_format, kind=decision.kind))
    return settled, replace(bundle, notes=(*bundle.notes, str(decision)))


def claim_for_attacks(output_dir: Path, model: str) -> None:
    """Claim a folder for attacks on this model, or check that it already is one.

    Raises:
        RequestError: It holds something else.
    """
    prepare_output_dir(output_dir)
    marker = output_dir / RUN_FILE
    if marker.exists():
        try:
            known = json.loads(marker.read_text(encoding="utf-8")).get("attacked")
        except (ValueError, AttributeError):
            known = None
        if known != model:
            what = f"attacks on {known}" if known else "a run"
            raise RequestError(f"{output_dir} holds {what}, not attacks on {model}: choose another --output-dir")
        return
    write_atomically(marker, json.dumps({"attacked": model}))


def settle_attacks(run: SingleRun, *, keeps: bool) -> None:
    """Settle what attackers train, where that is left to the device.

    Args:
        run: All processes of a launch come here together.
        keeps: Whether the folder keeps the decisions.

    Raises:
        RequestError: Adapters do not fit the model, or an optimizer does not fit the machine.
        EnvironmentFailure: A library is missing or too old.
    """
    context, known = run.context, (run.target or run.subjects[0]).folder
    tokenizer, marker = load_tokenizer(str(known)), context.output_dir / RUN_FILE
    kept = json.loads(marker.read_text(encoding="utf-8"))
    settled, told = settle_tuning(
        context.attacks,
        context.bundle,
        lambda: empty_model(known),
        lambda row: encode_row(row, tokenizer, context.text_format, eos=True),
        this_machine(measured=False),
        kept.get("attack", {}),
        world_size(),
    )
    for each in told:
        context.progress.say(str(each))
    if told and keeps and run.is_main:
        kept["attack"] = {**kept.get("attack", {}), **decisions(settled, context.attacks)}
        write_atomically(marker, json.dumps(kept))
    context.attacks = settled


def start_attacks(context: SingleModel, models: NamedModels, recipe: Recipe | None) -> SingleRun:
    """Fetch the models; the main process writes the weights that quantized ones represent.

    Args:
        context: Rows, attacks, folders, workers and progress.
        models: Their names.
        recipe: Gives those that ``models`` leaves out.

    Raises:
        RequestError: One of them is neither a folder with a saved model nor a model on the Hub.
        EnvironmentFailure: The Hub could not be reached, or the weights of quantized layers cannot be read.
    """
    folders = {"model": fetch_model(models.model, models.revision, "MODEL"), **_compared(context, models, recipe)}
    main = is_main_process()
    if main:  # each model is unpacked only once
        for name, folder in folders.items():
            _subject(context, name, folder)
    wait_for_everyone()
    found = {name: _subject(context, name, folder) for name, folder in folders.items()}
    if not _has_never_knew(models, recipe, found):
        context.bundle = context.bundle.with_floor()
    subjects = [found["model"]] if models.alone else list(found.values())
    context.text_format = _settled_format(context, recipe, found.get("target") or found["model"])
    return SingleRun(context, subjects, found.get("target"), main)


def _has_never_knew(models: NamedModels, recipe: Recipe | None, found: Mapping[str, Subject]) -> bool:
    """Whether there is a never-knew model, attacked here or elsewhere."""
    return "never_knew" in found or (models.alone and recipe is not None and recipe.model.has_never_knew)


def _settled_format(context: SingleModel, recipe: Recipe | None, asked: Subject) -> TextFormat:
    """How rows become text, after asking the target (or the model, if there is none) whether it ends answers."""
    if context.text_format.end == "auto" and recipe is not None and recipe.model.scratch is not None:
        return replace(context.text_format, end="always")  # models built from a recipe are built with ends
    return settle_ends(context, asked)


def _compared(context: SingleModel, models: NamedModels, recipe: Recipe | None) -> dict[str, Path]:
    """Folders of target and never-knew model, as far as they are given."""
    found: dict[str, Path] = {}
    if recipe is not None and not (models.target and (models.never_knew or models.alone)):
        run = RunContext(recipe, context.output_dir, context.bundle, context.workers, context.progress)
        target, never = base_models(run)
        found["target"] = target.folder
        if never is not None:
            found["never_knew"] = never.folder
    for key, name in (("target", models.target), ("never_knew", models.never_knew)):
        if name is not None:
            found[key] = fetch_model(name, None, f"--{key.replace('_', '-')}")
    return found


_ROLES: Mapping[str, Role] = {"model": "method", "target": "target", "never_knew": "never_knew"}


def _subject(context: SingleModel, name: str, folder: Path) -> Subject:
    """A model to attack; for a quantized one, the weights that it represents, which are written first."""
    digest = fingerprint(file_digests(folder))
    if not is_quantized(folder):
        return Subject(name, _ROLES[name], folder, digest)
    unit = Unit(context.folder("attack", name) / ".weights" / "stored", {"weights of": digest})
    unit.run(lambda out: write_dequantized(folder, out))
    return Subject(name, _ROLES[name], unit.path, digest)


def attack_table(run: SingleRun) -> dict[str, Any]:
    """What every attack brought back from every model, as plain data; never a text.

    Returns:
        ``attacks``: for each its name, budget, and by metric the mean score of each model after it (``scores``), what
        it was before (``before``, the mean over folds), the recovered share with its 95 % interval where target and
        never-knew model were attacked too, and the settings that the attacker kept (``best``). Without a never-knew
        model ``holdout`` has the mean scores on holdout facts that were asked alike, and those of the attacked model
        are the floor of its recovered share (``floor``).
    """
    context, found = run.context, []
    for name, attack in context.attacks.items():
        results = {subject.name: attack_result(context, run.target, subject, name, attack) for subject in run.subjects}
        metrics = [metric for metric in context.attack_metrics if metric in results["model"].scores]
        rows = []
        for metric in metrics:
            scores = {model: result.scores[metric] for model, result in results.items() if metric in result.scores}
            before = {model: _before(result.details, metric) for model, result in results.items()}
            means = {model: facts.mean for model, facts in scores.items()}
            facts = len(scores["model"].values)
            row = {"metric": metric, "facts": facts, "before": before, "scores": means, **_recovered(scores)}
            rows.append({**row, **_beside_holdout(context, name, results, metric)})
        best = {model: result.details for model, result in results.items()}
        budget = attack.budget(context.bundle)
        found.append({"name": name, "budget": budget, "metrics": rows, "best": best, **_step_by_step(name, results)})
    return {"schema_version": SCHEMA_VERSION, "versions": context.versions, "attacks": found}


def _step_by_step(name: str, results: Mapping[str, AttackResult]) -> dict[str, Any]:
    """Curves of every model and steps to half of the target's score; empty for an attack without such."""
    curves = {model: to_json(result.curves) for model, result in results.items() if result.curves}
    if not curves:
        return {}
    rows = recovery_rows(name, [(model, result.curves) for model, result in results.items()])
    return {"curves": curves, "recovery": to_json(rows)}


def _before(details: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    values = [row["before"] for row in details if row.get("metric") == metric and row.get("before") is not None]
    return sum(values) / len(values) if values else None


def _recovered(scores: Mapping[str, FactScores]) -> dict[str, Any]:
    if not {"model", "target", "never_knew"} <= scores.keys():
        return {}
    share = recovered_share(scores["model"], scores["target"], scores["never_knew"], Bootstrap())
    interval = list(share.interval) if share.interval else None
    return {"recovered_share": share.value, "ci95": interval, "undefined": share.undefined}


def _beside_holdout(
    context: SingleModel, name: str, results: Mapping[str, AttackResult], metric: str
) -> dict[str, Any]:
    """Scores on holdout facts, and the recovered share above those of the attacked model; empty where none."""
    holdout = {model: result.holdout[metric].mean for model, result in results.items() if metric in result.holdout}
    if not holdout:
        return {}
    if "target" not in results:
        return {"holdout": holdout}
    table = ScoreTable(attacks={name: context.attacks[name].no_floor})
    for model, result in results.items():
        for split, each, facts in result.by_set():
            table.add(ScoreKey(model, name, split, each), facts)
    floors = Floors(
        Reference("target", "holdout", paired=False), Reference("model", "holdout", paired=False), frozenset([name])
    )
    share = ShareMeter(table, "model", "target", floors, "forget", Bootstrap())(name, metric).share.estimate
    interval = list(share.interval) if share.interval else None
    floor = "holdout facts asked of the attacked model"
    return {
        "holdout": holdout,
        "recovered_share": share.value,
        "ci95": interval,
        "undefined": share.undefined,
        "floor": floor,
    }
