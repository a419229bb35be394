"""The train stage: one folder per method and per trained control."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..data.encoding import TextFormat
from ..data.example import DataBundle, RowSet
from ..jobs import Job
from ..processes import is_first, wait_for_all
from ..recipe import ControlSpec, MethodSpec
from .context import RunContext, Subject
from .models import audited_subjects, control_subject, never_knew_seed, second_never_knew
from .units import Unit, fingerprint

METRICS_FILE = "training.json"


def train_stage(context: RunContext, target: Subject) -> list[Subject]:
    """Train what is not trained yet; methods first, then controls."""
    bundle = training_bundle(context)
    plans = [(method.name, unit, bundle, settings) for method, unit, settings in _methods(context, target)]
    plans += [
        (control.name, unit, context.bundle, settings)
        for control, unit, settings in _trained_controls(context, target)
    ]
    text_format, seed, dtype = context.recipe.data.format, context.recipe.seed, context.recipe.model.dtype
    waiting = [
        Job(name, train_job, (unit, target.folder, rows, text_format, settings, seed, dtype))
        for name, unit, rows, settings in plans
        if not unit.done
    ]
    for _ in context.progress.follow("train", len(waiting), context.workers.run(waiting)):
        pass
    return trained_subjects(context, target)


def training_bundle(context: RunContext) -> DataBundle:
    """The sets as methods are trained on them. Positive controls need no more than forget and retain."""
    bundle = context.bundle
    if not context.recipe.data.keep_generic:
        return bundle
    return replace(bundle, retain=RowSet(bundle.retain.train + bundle.generic.train, bundle.retain.score))


def trained_subjects(context: RunContext, target: Subject) -> list[Subject]:
    """The models of all methods and controls, from their finished folders.

    Raises:
        RequestError: One of them has not been trained yet.
    """
    subjects = [*audited_subjects(context)]
    subjects += [
        Subject(method.name, "method", unit.path, model_digest(unit)) for method, unit, _ in _methods(context, target)
    ]
    subjects += [
        Subject(control.name, "control", unit.path, model_digest(unit))
        for control, unit, _ in _trained_controls(context, target)
    ]
    scratch = context.recipe.model.scratch
    for number, control in enumerate(context.recipe.controls):
        if control.kind == "never_knew" and scratch is not None:
            seed = never_knew_seed(control.seed, scratch.seed, number)
            subjects.append(control_subject(control.name, second_never_knew(context, control.name, seed)[1]))
    return subjects


def model_digest(unit: Unit) -> str:
    """Fingerprint of a trained model's files, its training log left out (it holds times)."""
    return fingerprint({name: digest for name, digest in unit.outputs().items() if name != METRICS_FILE})


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


def _methods(context: RunContext, target: Subject) -> list[tuple[MethodSpec, Unit, dict[str, Any]]]:
    return [
        (method, _unit(context, target, method.name, method.settings), _settings(context, method.settings))
        for method in context.recipe.methods
        if method.checkpoint is None
    ]


def _trained_controls(context: RunContext, target: Subject) -> list[tuple[ControlSpec, Unit, dict[str, Any]]]:
    found = []
    for control in context.recipe.controls:
        if control.kind not in ("never_knew", "method"):
            part = {"name": control.kind, **control.parameters} if control.parameters else control.kind
            settings = {**control.settings, "control": part}
            found.append((control, _unit(context, target, control.name, settings), _settings(context, settings)))
    return found


def _settings(context: RunContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    data = context.recipe.data
    return {"max_length": data.max_length, "truncation": data.truncation, **settings}


def _unit(context: RunContext, target: Subject, name: str, settings: Mapping[str, Any]) -> Unit:
    inputs = {
        "stage": "train",
        "target": target.digest,
        "data": context.data_digest,
        "format": asdict(context.recipe.data.format),
        "settings": _settings(context, settings),
        "seed": context.recipe.seed,
        "dtype": context.recipe.model.dtype,
        "versions": context.versions,
    }
    if context.recipe.data.keep_generic:
        inputs["keep_generic"] = True
    return Unit(context.folder("train", name), inputs, keep_partial=True)
