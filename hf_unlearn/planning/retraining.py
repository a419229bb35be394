"""What the advice to retrain or to unlearn rests on, taken from a plan."""

from __future__ import annotations

from collections.abc import Sequence

from .advice import Advice, Cost, Retraining, better_of, requests_per_retraining
from .building import building
from .fixed import Seconds, added, fixed_seconds
from .machines import computed_in
from .operations import Pass, training
from .run_plan import PlanInput, StagePlan
from .shape import ModelShape
from .training import Devices


def advise(given: PlanInput, shape: ModelShape, devices: Devices, stages: Sequence[StagePlan]) -> Advice | None:
    """Compare one retraining with one request, which is the plan without the models that are built for it.

    Args:
        given: The run.
        shape: The target's sizes.
        devices: What the run is on.
        stages: The plan.

    Returns:
        ``None`` where nobody said what the target was trained on.
    """
    known = given.retraining
    if known is None:
        return None
    tokens, planned = _retraining(given, known, shape, devices)
    at_hand = known.seconds if devices.machine.here else None
    retraining = Cost(planned) if at_hand is None else Cost((at_hand, at_hand), measured=True)
    request, measured_in = _request(given, devices, stages)
    ratio = requests_per_retraining(retraining, request)
    costs = {"retraining": retraining, "request": request}
    return Advice(
        better=better_of(ratio),
        requests_per_retraining=ratio,
        retrain_seconds=retraining.seconds,
        retrain_tokens=tokens,
        retrain_source="the recipe" if known.tokens is None else "--retrain-tokens",
        request_seconds=request.seconds,
        unlearn_seconds=_sum([each for each in stages if each.stage == "train" and each.what in given.methods]),
        earlier=len(given.earlier),
        measured=tuple(name for name, cost in costs.items() if cost.measured),
        measured_in=measured_in,
    )


def _request(given: PlanInput, devices: Devices, stages: Sequence[StagePlan]) -> tuple[Cost, str | None]:
    """By what this run took, else by what the request before it took, else as planned."""
    parts = [stage for stage in stages if stage.stage != "models"]
    if any(stage.measured for stage in parts):
        return Cost(_sum(parts), measured=True), given.measured.source
    if given.earlier_request is not None and devices.machine.here:
        seconds, folder = given.earlier_request
        return Cost((seconds, seconds), measured=True), folder
    return Cost(_sum(parts)), None


def _sum(stages: Sequence[StagePlan]) -> Seconds:
    return sum(each.seconds[0] for each in stages), sum(each.seconds[1] for each in stages)


def _retraining(given: PlanInput, known: Retraining, shape: ModelShape, devices: Devices) -> tuple[float, Seconds]:
    """Tokens and seconds of one retraining; of tokens that the user gave, the matrices alone are counted."""
    if known.tokens is not None:
        operations = training(shape, Pass(known.tokens, 1, known.tokens))
        return known.tokens, devices.seconds(operations, "bfloat16", devices.count)
    assert known.spec is not None  # one of the two is known
    one = building(shape, known.spec, [given.encode(row) for row in known.rows])
    fixed = fixed_seconds("models", 1, 1, one.steps)
    return one.tokens, added(devices.seconds(one.operations, computed_in(known.spec.bf16)), fixed)
