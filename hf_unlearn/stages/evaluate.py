"""The evaluate stage: every model as it is and in every format, scored from the very folder that was written."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.encoding import TextFormat
from ..data.example import Example
from ..evaluation.metrics import SCORE_VERSION, score_versions
from ..evaluation.run import SUMMARY_FILE, EvalSpec, SetScoring, evaluate_folder
from ..models.llama_cpp import runtime_version, split_runtime
from ..models.placement import spread_devices
from ..reporting.first_scores import SETS, FirstScores, print_first_scores
from ..runtime.environment import no_room
from ..runtime.jobs import Job
from ..runtime.processes import alone, gather, is_main_process, on_main_process, wait_for_everyone, world_size
from ..verification.references import IDENTITY
from .chain import check_subjects, check_variants
from .context import RunContext, Subject, generation_inputs
from .run import Run
from .units import Unit

_PAUSE = 1.0


def evaluate_stage(run: Run) -> None:
    """Score what is not scored yet. Under several processes all of them call this together and share the rows."""
    context = run.context
    every = [(subject, transform) for subject in run.subjects for transform in context.transforms]
    waiting = unscored(context, run.target, every)
    if waiting:
        on_main_process(lambda: _check_models(run))
    for _ in context.progress.follow("evaluate", len(waiting), score(context, run.target, waiting)):
        pass
    if waiting and context.recipe.attack and is_main_process():  # without attacks the whole table comes at once
        _print_first_scores(run)


def unscored(
    context: RunContext, target: Subject, every: Sequence[tuple[Subject, str]]
) -> list[tuple[Subject, str, Unit]]:
    """Models and transforms without scores, and where these will be; the same list in all processes of a group."""
    sets = context.bundle.scored_sets()
    units = [(subject, name, evaluation_unit(context, target, subject, name, sets)) for subject, name in every]
    # A file server may show the others later what the first one has finished.
    waiting = gather([number for number, (_, _, unit) in enumerate(units) if not unit.done])[0]
    return [units[number] for number in waiting]


def score(
    context: RunContext, target: Subject, waiting: Sequence[tuple[Subject, str, Unit]]
) -> Iterator[tuple[Job, Any]]:
    """Score models, in the worker processes or, in a group of several processes, by all of them together.

    Yields:
        Each job when it is done.
    """
    jobs = [evaluation(context, target, subject, transform, unit) for subject, transform, unit in waiting]
    if world_size() == 1:
        yield from context.workers.run(jobs)
        return
    for (subject, transform, unit), job in zip(waiting, jobs, strict=True):
        arguments = evaluation_arguments(context, target, subject, transform)
        _score_together(unit, *arguments)
        yield job, None


def _score_together(
    unit: Unit,
    folder: Path,
    sets: dict[str, tuple[Example, ...]],
    generic: Sequence[Example],
    reference: Path,
    text_format: TextFormat,
    spec: EvalSpec,
    dtype: str,
    runtime: str,
    scoring: Mapping[str, SetScoring],
) -> None:
    """Score one folder, its rows shared by all processes; the main one writes the unit."""
    out = unit.begin() if is_main_process() else unit.partial

    def work() -> None:
        evaluate_folder(
            folder, sets, generic, reference, text_format, spec, out, dtype, scoring=scoring, runtime=runtime
        )

    wait_for_everyone()
    if spread_devices(folder, dtype) is None:
        work()
    elif is_main_process():  # the model is over all devices, and there are no others for a second one
        with alone():
            work()
    else:
        while not (out / SUMMARY_FILE).exists():  # not in a collective, which would time out
            time.sleep(_PAUSE)
    wait_for_everyone()
    on_main_process(unit.finish)


def _check_models(run: Run) -> None:
    check_subjects(run.subjects)
    check_variants(run.context, run.subjects)


def _print_first_scores(run: Run) -> None:
    """What is known before the attacks, which take the rest of the time: the first metric of the gate."""
    context = run.context
    metric = context.recipe.gate.metrics[0]
    sets = context.bundle.scored_sets()
    models = []
    for subject in run.subjects:
        means = {}
        for transform in context.transforms:
            unit = evaluation_unit(context, run.target, subject, transform, sets)
            summary = json.loads((unit.path / SUMMARY_FILE).read_text(encoding="utf-8"))
            for split in SETS:
                if metric in summary.get(split, {}):
                    means[transform, split] = summary[split][metric]["mean"]
        models.append(FirstScores(subject.name, means))
    print_first_scores(models, context.transforms, metric, context.progress.console)


def evaluation(context: RunContext, target: Subject, subject: Subject, transform: str, unit: Unit) -> Job:
    """The job that scores one model under one transform."""
    arguments = evaluation_arguments(context, target, subject, transform)
    return Job(f"{subject.name} {'as is' if transform == IDENTITY else transform}", evaluate_job, (unit, *arguments))


def evaluation_arguments(context: RunContext, target: Subject, subject: Subject, transform: str) -> tuple[Any, ...]:
    """What :func:`evaluate_job` takes besides the unit, in its order."""
    return (
        context.variant(subject, transform),
        context.bundle.scored_sets(),
        context.bundle.generic.score,
        context.variant(target, transform),
        context.text_format,
        context.recipe.evaluate,
        context.recipe.model.dtype,
        split_runtime(transform)[1],
        further_needs(context.bundle.scored_sets()),
    )


def further_needs(sets: Mapping[str, Sequence[Example]]) -> dict[str, SetScoring]:
    """What records must hold besides what metrics need: whether forgotten rows can be told from holdout rows.

    Args:
        sets: Rows by set name.
    """
    asked = ("forget", "holdout")
    return {name: SetScoring(needs=("vocabulary",)) for name in asked} if all(sets.get(name) for name in asked) else {}


def evaluation_unit(
    context: RunContext, target: Subject, subject: Subject, transform: str, sets: dict[str, tuple[Example, ...]]
) -> Unit:
    """Where the records of one model under one transform are."""
    needs = further_needs(sets)
    inputs = {
        "stage": "evaluate",
        "model": subject.digest,
        "target": target.digest,
        "transform": transform,
        "calibration": context.calibration_digests.get(transform),
        "sets": sorted(sets),
        "data": context.data_digest,
        "spec": asdict(context.recipe.evaluate),
        "dtype": context.recipe.model.dtype,
        "score_version": SCORE_VERSION,
        "metric_versions": score_versions(context.recipe.evaluate.metrics),
        **({"needs": {name: settings.needs for name, settings in needs.items()}} if needs else {}),
        "versions": {**context.versions, **runtime_version(transform)},
        **generation_inputs(context.bundle, context.text_format),
    }
    return Unit(context.folder("evaluate", subject.name) / transform, inputs, keep_partial=True)


def evaluate_job(
    unit: Unit,
    folder: Path,
    sets: dict[str, tuple[Example, ...]],
    generic: Sequence[Example],
    reference: Path,
    text_format: TextFormat,
    spec: EvalSpec,
    dtype: str,
    runtime: str = "transformers",
    scoring: Mapping[str, SetScoring] | None = None,
) -> None:
    """Score one folder. Finished scores are kept if it is killed or fails, unless the disk is full."""
    try:
        unit.run(
            lambda out: evaluate_folder(
                folder, sets, generic, reference, text_format, spec, out, dtype, scoring=scoring, runtime=runtime
            )
        )
    except Exception as error:
        if no_room(error):  # and it stays full while half-written results are there
            shutil.rmtree(unit.partial, ignore_errors=True)
        raise
