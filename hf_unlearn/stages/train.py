"""The train stage: one folder per method and per trained control."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.encoding import TextFormat
from ..data.example import DataBundle
from ..errors import RequestError
from ..jobs import Job
from ..processes import first_does, is_first, wait_for_all
from .context import RunContext, Subject
from .drawn import draw_stage
from .models import audited_subjects, control_subject, never_knew_seed, second_never_knew
from .plans import TrainingPlan, training_plans
from .units import Unit, fingerprint

METRICS_FILE = "training.json"
# A control that learns the facts its own way must know this share of what the target knows, or it hides nothing.
LEAST_LEARNED = 0.8


def train_stage(context: RunContext, target: Subject, never: Subject | None) -> list[Subject]:
    """Train what is not trained yet; methods first, then controls. What the target is to write comes before."""
    draw_stage(context, target)
    text_format, seed, dtype = context.recipe.data.format, context.recipe.seed, context.recipe.model.dtype
    waiting = [
        Job(plan.name, plan_job, (plan, target.folder, text_format, seed, dtype))
        for plan in training_plans(context, target, never)
        if not plan.done
    ]
    for _ in context.progress.follow("train", len(waiting), context.workers.run(waiting)):
        pass
    return trained_subjects(context, target, never)


def trained_subjects(context: RunContext, target: Subject, never: Subject | None) -> list[Subject]:
    """The models of all methods and controls, from their finished folders.

    Raises:
        RequestError: One of them has not been trained yet.
    """
    subjects = [*audited_subjects(context)]
    methods = {method.name for method in context.recipe.methods}
    subjects += [
        Subject(plan.name, "method" if plan.name in methods else "control", plan.unit.path, model_digest(plan.unit))
        for plan in training_plans(context, target, never)
    ]
    scratch = context.recipe.model.scratch
    for number, control in enumerate(context.recipe.controls):
        if control.kind == "never_knew" and scratch is not None:
            seed = never_knew_seed(control.seed, scratch.seed, number)
            subjects.append(control_subject(control.name, second_never_knew(context, control.name, seed)[1]))
        if control.kind == "target":
            subjects.append(Subject(control.name, "control", target.folder, target.digest))
    return subjects


def model_digest(unit: Unit) -> str:
    """Fingerprint of a trained model's files, its training log left out (it holds times)."""
    return fingerprint({name: digest for name, digest in unit.outputs().items() if name != METRICS_FILE})


def plan_job(plan: TrainingPlan, target: Path, text_format: TextFormat, seed: int, dtype: str) -> None:
    """Train one model and, before it, what it starts from. Under several processes all of them call this together."""
    if (first := plan.first) is not None:
        if not first.done:
            train_job(first.unit, first.source, first.bundle, text_format, first.settings, seed, dtype)
        first_does(lambda: _check_learned(plan, target, text_format))
    train_job(plan.unit, plan.source, plan.bundle, text_format, plan.settings, seed, dtype)


def _check_learned(plan: TrainingPlan, target: Path, text_format: TextFormat) -> None:
    from ..trainer.scratch import knows

    rows = list({(row.prompt, row.answer): row for row in plan.bundle.forget.score}.values())
    learned, before = knows(plan.source, rows, text_format), knows(target, rows, text_format)
    if learned < LEAST_LEARNED * before:
        raise RequestError(
            f"the control {plan.name} hides nothing: after learning it answers {learned:.1%} of the forget set and "
            f"the target {before:.1%}; raise max_steps or learning_rate under 'learn' of that control"
        )


def train_job(
    unit: Unit,
    model: Path,
    bundle: DataBundle,
    text_format: TextFormat,
    settings: Mapping[str, Any],
    seed: int,
    dtype: str,
) -> None:
    """Train one method. Under several processes all of them call this together and the first one keeps the books."""
    from ..trainer.train import train_method

    first = is_first()
    partial = unit.begin() if first else unit.partial
    wait_for_all()
    metrics = train_method(
        model_dir=model,
        out_dir=partial,
        work_dir=partial / "checkpoints",
        bundle=bundle,
        fmt=text_format,
        settings=dict(settings),
        seed=seed,
        dtype=dtype,
    )
    wait_for_all()
    if first:
        shutil.rmtree(partial / "checkpoints", ignore_errors=True)
        (partial / METRICS_FILE).write_text(json.dumps(metrics, indent=1, sort_keys=True), encoding="utf-8")
        unit.finish()
    wait_for_all()
