"""What the train stage makes: a method's or a control's model, and what it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..controls import CONTROLS
from ..data.example import DataBundle, RowSet
from ..errors import RequestError
from ..recipe import ControlSpec, MethodSpec
from ..recipe.checks import UNTRAINED_CONTROLS
from ..recipe.method_settings import completed
from ..registry import build_part, part_name
from ..robust import ROBUST
from .context import RunContext, Subject
from .retain_rows import SelfGenerated, named_inputs, named_rows, self_generated_texts
from .units import Unit, fingerprint

METRICS_FILE = "training.json"
"""What training recorded, next to the model."""


@dataclass(frozen=True)
class TrainingPlan:
    """One model to train.

    Attributes:
        name: Of the method or control.
        unit: Where it will be.
        source: Folder of the model that training starts from.
        bundle: The sets it is trained on.
        settings: Fields of ``UnlearnConfig``.
        first: What makes ``source``, for a control that learns the facts in its own way.
    """

    name: str
    unit: Unit
    source: Path
    bundle: DataBundle
    settings: Mapping[str, Any]
    first: TrainingPlan | None = None

    @property
    def done(self) -> bool:
        """Whether the model exists."""
        return self.unit.done


def training_plans(context: RunContext, target: Subject, never: Subject | None) -> list[TrainingPlan]:
    """All models to train: methods first, then controls."""
    methods = [method for method in context.recipe.methods if method.checkpoint is None]
    generated = self_generated_texts(context, target) if methods else None
    plans = [_method_plan(context, method, target, generated) for method in methods]
    trained = [control for control in context.recipe.controls if control.kind not in UNTRAINED_CONTROLS]
    return plans + [_control_plan(context, control, target, never) for control in trained]


def _method_plan(
    context: RunContext, method: MethodSpec, target: Subject, generated: SelfGenerated | None
) -> TrainingPlan:
    """Positive controls need only forget and retain; methods also keep what the recipe names besides."""
    rows = named_rows(context) + (generated.rows if generated else ())
    bundle = replace(context.bundle, retain=RowSet(rows, context.bundle.retain.score))
    digest = generated.digest if generated else None
    unit = _unit(context, target.digest, "train", method.name, completed(method.settings), digest)
    return TrainingPlan(method.name, unit, target.folder, bundle, training_settings(context, method.settings))


def _control_plan(context: RunContext, control: ControlSpec, target: Subject, never: Subject | None) -> TrainingPlan:
    part = control_part(control)
    settings = {**control.settings, "control": part_spec(control)}
    if not part.learns_first:
        unit = _unit(context, target.digest, "train", control.name, settings)
        bundle = part.training_rows(context.bundle)
        return TrainingPlan(control.name, unit, target.folder, bundle, training_settings(context, settings))
    if never is None:  # the recipe check finds this before
        raise RequestError(f"the control {control.name} learns from a never-knew model: give model.never_knew")
    first = _learning_plan(context, control, never)
    # The learned model follows from its inputs, so this unit is known before that one is made.
    unit = _unit(context, fingerprint(first.unit.inputs), "train", control.name, settings)
    bundle = part.training_rows(context.bundle)
    return TrainingPlan(control.name, unit, first.unit.path, bundle, training_settings(context, settings), first)


def _learning_plan(context: RunContext, control: ControlSpec, never: Subject) -> TrainingPlan:
    learner = control_part(control, phase="learn")
    settings = {**learner.learning, **control.learn, "control": part_spec(control, phase="learn")}
    unit = _unit(context, never.digest, "own-target", control.name, settings)
    bundle = learner.training_rows(context.bundle)
    return TrainingPlan(f"{control.name} learns", unit, never.folder, bundle, training_settings(context, settings))


def control_part(control: ControlSpec, **given: Any) -> Any:
    """The training part of a positive control."""
    return build_part(CONTROLS, {"name": control.kind, **control.parameters, **given})


def part_spec(control: ControlSpec, **given: Any) -> Any:
    """The control as ``UnlearnConfig.control`` takes it."""
    parameters = {**control.parameters, **given}
    return {"name": control.kind, **parameters} if parameters else control.kind


def training_settings(context: RunContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training with what the recipe says of all of them."""
    data = context.recipe.data
    return {"max_length": data.max_length, "truncation": data.truncation, **settings}


def _unit(
    context: RunContext, start: str, stage: str, name: str, settings: Mapping[str, Any], generated: str | None = None
) -> Unit:
    inputs = {
        "stage": "train",
        "target": start,
        "data": context.data_digest,
        "format": context.text_format.described(),
        "settings": training_settings(context, settings),
        "seed": context.recipe.seed,
        "dtype": context.recipe.model.dtype,
        "versions": context.versions,
    }
    inputs |= named_inputs(context)
    if changed := changed_rules(settings):
        inputs["rules"] = changed
    if generated is not None:
        inputs["keep_drawn"] = generated
    return Unit(context.folder(stage, name), inputs, keep_partial=True)


def changed_rules(settings: Mapping[str, Any]) -> dict[str, int]:
    """Robust parts that lead to other weights than they once did, with the number of their rules.

    Args:
        settings: Of a method or a control.
    """
    rules = {part_name(spec): build_part(ROBUST, spec).rules for spec in completed(settings).get("robust") or ()}
    return {name: number for name, number in rules.items() if number > 1}
