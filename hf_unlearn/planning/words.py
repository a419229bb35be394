"""A plan in words: a table for `hf-unlearn plan`, a few lines at the start of a run."""

from __future__ import annotations

from collections.abc import Sequence

from ..attacks.cost import duration
from .memory import STRATEGIES
from .plan import RunPlan, StagePlan

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes, in the unit that is read best."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if count >= 10 or unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def number(count: float) -> str:
    """A count in words: 950, 12 thousand, 3.4 million."""
    for factor, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e4, "thousand")):
        if count >= factor:
            shown = count / (1e3 if word == "thousand" else factor)
            return f"{shown:.0f} {word}" if shown >= 10 else f"{shown:.1f} {word}"
    return f"{count:.0f}"


def span(seconds: Sequence[float]) -> str:
    """A range of times."""
    least, most = (duration(each) if each >= 1 else "under 1 s" for each in seconds)
    return least if least == most else f"{least} to {most}"


def head(plan: RunPlan) -> list[str]:
    """What is planned, and on what."""
    memory = "" if plan.machine_memory is None else f", {size(plan.machine_memory)} of memory"
    on = plan.machine if plan.devices == 1 else f"{plan.devices} x {plan.machine}"
    how = "" if plan.strategy == "one" else f", {STRATEGIES[plan.strategy]}"  # type: ignore[index]
    return [
        f"{plan.name}: {plan.model}, {number(plan.parameters)} parameters ({plan.family})",
        f"on {on}{how}{memory}; operations a second {plan.rates}",
    ]


def table(plan: RunPlan) -> list[list[str]]:
    """Rows of a table, its heading first: what each stage takes."""
    rows = [["stage", "what", "steps", "tokens", "operations", "memory", "disk", "time"]]
    return rows + [_row(stage) for stage in plan.stages]


def _row(stage: StagePlan) -> list[str]:
    return [
        stage.stage,
        stage.what,
        str(stage.steps) if stage.steps else "",
        ("" if stage.exact else "about ") + number(stage.tokens) if stage.tokens else "",
        f"{stage.operations:.1e}" if stage.operations else "",
        (size(stage.memory.peak) + (" !" if stage.fits is False else "")) if stage.memory else "",
        size(stage.disk) if stage.disk else "",
        span(stage.seconds) if stage.operations else "",
    ]


def notes(plan: RunPlan) -> list[str]:
    """What the table has no room for: parts of the memory, and what else to know of a stage."""
    found = []
    for stage in plan.stages:
        if stage.stage == "train" and stage.memory is not None:
            memory = stage.memory
            parts = {
                "weights": memory.weights,
                "gradients": memory.gradients,
                "optimizer": memory.states,
                "activations": memory.activations,
                "logits": memory.logits,
                "reference": memory.caches,
            }
            told = ", ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
            found.append(f"train {stage.what}: {told}; checkpoints {size(stage.scratch_disk)} meanwhile")
        if stage.note:
            found.append(f"{stage.stage} {stage.what}: {stage.note}")
    return found


def total(plan: RunPlan) -> str:
    """The sums, in one line."""
    free = "" if plan.disk_free is None else f" ({size(plan.disk_free)} free)"
    return f"in all: {span(plan.seconds)}, at most {size(plan.peak)} of memory and {size(plan.disk)} of disk{free}"


def short(plan: RunPlan) -> list[str]:
    """The plan in a few lines, for the start of a run."""
    trained = [stage for stage in plan.stages if stage.stage == "train"]
    steps = sum(stage.steps for stage in trained)
    tokens = sum(stage.tokens for stage in trained)
    lines = []
    if trained:
        most = "at most " if any("at most" in stage.note for stage in trained) else ""
        lines.append(
            f"plan: {len(trained)} training{'s' * (len(trained) > 1)} of {most}{steps} steps in all, on "
            f"{number(tokens)} tokens"
        )
    by_stage = {name: sum(stage.seconds[1] for stage in plan.stages if stage.stage == name) for name in _order(plan)}
    longest = max(by_stage, key=lambda name: by_stage[name])
    return [*lines, f"plan: {total(plan)}; longest: {longest}"]


def _order(plan: RunPlan) -> list[str]:
    return list(dict.fromkeys(stage.stage for stage in plan.stages))
