"""The models a run starts from: the target and, if there is one, the never-knew control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..models.gguf_source import fetch_model
from ..models.loading import refuse_gguf
from ..models.own_tokenizer import with_tokenizer
from ..models.scratch import ScratchSpec, knows
from ..recipe import ModelSpec
from ..runtime.jobs import Job
from ..runtime.processes import on_main_process
from .built_models import build_in_cache, built_folder, is_as_built, remove_halves
from .context import Role, RunContext, Subject
from .units import file_digests, fingerprint

NEVER_KNEW_SEED = 1000


def base_models(context: RunContext, *, with_controls: bool = True) -> tuple[Subject, Subject | None]:
    """Target and never-knew model, fetched or built (once; what is built is cached by content).

    Args:
        context: The run.
        with_controls: Whether never-knew models that are controls are built, too; otherwise see
            :func:`control_builds`.

    Raises:
        RequestError: A folder holds no model, or a model built from scratch does not know its facts.
        EnvironmentFailure: The Hub could not be reached.
    """
    spec = context.recipe.model
    if spec.scratch is not None:
        return _scratch_models(context, with_local_base(spec.scratch), with_controls)
    target = _subject("target", "target", fetch_target(spec))
    if spec.never_knew is None:
        return target, None
    folder = fetch_model(spec.never_knew, spec.never_knew_revision, "model.never_knew")
    refuse_gguf(folder, "model.never_knew")
    return target, _subject("never_knew", "never_knew", _with_tokenizer(spec, folder))


def fetch_target(spec: ModelSpec, *, weights: bool = True) -> Path:
    """The folder of a target that is named in the recipe.

    Args:
        spec: The models of the recipe.
        weights: Whether they are downloaded too: shapes and tokenizer can be looked at without them.

    Raises:
        RequestError: There is no such model.
        EnvironmentFailure: The Hub could not be reached, or a package or library is missing.
    """
    assert spec.target is not None  # else it is built from scratch
    folder = fetch_model(spec.target, spec.target_revision, "model.target", spec.gguf_file, weights=weights)
    refuse_gguf(folder, "model.target")
    return _with_tokenizer(spec, folder)


def _with_tokenizer(spec: ModelSpec, folder: Path) -> Path:
    """The model of a folder with the tokenizer that the recipe names, if it names one."""
    if spec.tokenizer is None:
        return folder
    try:
        return with_tokenizer(folder, spec.tokenizer, spec.tokenizer_revision)
    except RequestError as error:
        raise RequestError(f"model.tokenizer: {error}") from error


def _subject(name: str, role: Role, folder: Path) -> Subject:
    return Subject(name, role, folder, fingerprint(file_digests(folder)))


def audited_subjects(context: RunContext) -> list[Subject]:
    """The checkpoints of an audit, fetched.

    Raises:
        RequestError: One of them is neither a folder with a saved model nor a model on the Hub.
        EnvironmentFailure: The Hub could not be reached.
    """
    spec, found = context.recipe.model, []
    for method in context.recipe.methods:
        if method.checkpoint is not None:
            folder = fetch_model(method.checkpoint, method.revision, f"the checkpoint of {method.name}")
            found.append(_subject(method.name, "method", _with_tokenizer(spec, folder)))
    return found


def second_never_knew(context: RunContext, name: str, seed: int) -> tuple[Job, Path]:
    """The job that builds another never-knew model, and where it will be."""
    spec = context.recipe.model.scratch
    assert spec is not None  # the recipe check refuses such a control without model.scratch
    return _scratch_job(context, replace(with_local_base(spec), seed=seed), with_forget=False, title=name)


def control_builds(context: RunContext) -> list[Job]:
    """The jobs that build never-knew models which are controls and are not there yet."""
    return [job for job, folder in _control_jobs(context) if not is_as_built(folder)]


def _control_jobs(context: RunContext) -> list[tuple[Job, Path]]:
    scratch = context.recipe.model.scratch
    if scratch is None:
        return []
    return [
        second_never_knew(context, control.name, never_knew_seed(control.seed, scratch.seed, number))
        for number, control in enumerate(context.recipe.controls)
        if control.kind == "never_knew"
    ]


def control_subject(name: str, folder: Path) -> Subject:
    """A control whose folder exists."""
    return _subject(name, "control", folder)


def with_local_base(spec: ScratchSpec) -> ScratchSpec:
    """The same, with the folder of its base (downloaded, or converted from a GGUF file) in place of its name.

    Raises:
        RequestError: There is no such model.
        EnvironmentFailure: The Hub could not be reached, or a package or library is missing.
    """
    if spec.base is None:
        return spec
    return replace(spec, base=str(fetch_base(spec)), base_revision=None, base_gguf_file=None)


def fetch_base(spec: ScratchSpec, *, weights: bool = True) -> Path:
    """The folder of a base that is named in the recipe; for its arguments and errors see :func:`fetch_target`."""
    assert spec.base is not None  # else there is none
    key = "model.scratch.base"
    folder = fetch_model(spec.base, spec.base_revision, key, spec.base_gguf_file, weights=weights)
    refuse_gguf(folder, key)
    return folder


def _scratch_models(context: RunContext, spec: ScratchSpec, with_controls: bool) -> tuple[Subject, Subject]:
    first = [
        _scratch_job(context, spec, with_forget=True, title="target"),
        _scratch_job(context, replace(spec, seed=spec.seed + NEVER_KNEW_SEED), with_forget=False, title="never-knew"),
    ]
    jobs = [*first, *_control_jobs(context)]
    if len({folder for _, folder in jobs}) < len(jobs):
        raise RequestError(
            "two models of the run would be trained from the same rows and seed: give every control of kind "
            f"never_knew its own seed, and not {spec.seed + NEVER_KNEW_SEED}, which is that of the never-knew model"
        )

    def build() -> None:
        remove_halves()
        waiting = [job for job, folder in (jobs if with_controls else first) if not is_as_built(folder)]
        for _ in context.progress.follow("models", len(waiting), context.workers.run(waiting)):
            pass

    on_main_process(build)
    target, never = (folder for _, folder in first)
    _check_known(context, target)
    return _subject("target", "target", target), _subject("never_knew", "never_knew", never)


def never_knew_seed(seed: int | None, scratch_seed: int, number: int) -> int:
    """The seed of a further never-knew model: as given, or one that no other model of the run has."""
    return seed if seed is not None else scratch_seed + NEVER_KNEW_SEED * (number + 2)


def _scratch_job(context: RunContext, spec: ScratchSpec, *, with_forget: bool, title: str) -> tuple[Job, Path]:
    bundle, text_format = context.bundle, context.text_format
    rows = list(scratch_rows(bundle, with_forget=with_forget, with_extra=context.recipe.data.extra_is_known))
    texts = tokenizer_texts(bundle)
    folder = built_folder(spec, rows, texts, text_format)
    return Job(f"{title} model", build_in_cache, (spec, rows, texts, text_format, folder, title)), folder


def scratch_rows(bundle: DataBundle, *, with_forget: bool, with_extra: bool) -> Iterator[Example]:
    """What a model built from scratch learns; a never-knew model learns all but the forget set."""
    sets = [bundle.forget] if with_forget else []
    sets += [bundle.retain, bundle.practice, bundle.generic]
    sets += list(bundle.extra.values()) if with_extra else []
    for rows in sets:
        yield from rows.train


def tokenizer_texts(bundle: DataBundle) -> list[str]:
    """All rows with all their options, so that a tokenizer trained on them favours no set."""
    sets = (bundle.forget, bundle.retain, bundle.holdout, bundle.practice, bundle.generic, *bundle.extra.values())
    texts = []
    for rows in sets:
        for row in rows:
            texts.append(row.text)
            texts.extend(row.prompt + choice for choice in row.choices)
    return texts


def _check_known(context: RunContext, target: Path) -> None:
    least = context.recipe.model.min_known
    for name, rows in (("forget", context.bundle.forget), ("retain", context.bundle.retain)):
        unique = list({(row.prompt, row.answer): row for row in rows.score}.values())
        asking = Job(f"target on {name}", knows, (target, unique, context.text_format))
        ((_, known),) = context.workers.run([asking])
        context.progress.say(f"target answers {known:.1%} of the {name} set")
        if known < least:
            raise RequestError(
                f"the target built from scratch answers only {known:.1%} of the {name} set (model.min_known asks for "
                f"{least:.0%}): raise model.scratch.epochs or model.scratch.hidden_size"
            )
