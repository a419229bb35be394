"""A plan in words: a table for `hf-unlearn plan`, a few lines at the start of a run."""

from __future__ import annotations

from collections.abc import Sequence

from ..attacks.cost import duration
from .advice import Advice
from .memory import STRATEGIES
from .run_plan import RunPlan, StagePlan

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes, in the unit that is read best."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if count >= 10 or unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def number(count: float) -> str:
    """A count in words: 950, 12 thousand, 3.4 million."""
    return _scaled(count, (" trillion", " billion", " million", " thousand"))


def _letters(count: float) -> str:
    """A count in a narrow column: 950, 12 k, 3.4 M."""
    return _scaled(count, (" T", " G", " M", " k"))


def _scaled(count: float, words: Sequence[str]) -> str:
    for factor, word in zip((1e12, 1e9, 1e6, 1e3), words, strict=True):
        if count >= max(factor, 1e4):
            shown = count / factor
            return f"{shown:.0f}{word}" if shown >= 10 else f"{shown:.1f}{word}"
    return f"{count:.0f}"


def span(seconds: Sequence[float]) -> str:
    """A range of times, as short as it can be said: 10-31 min, 72 s-4 min."""
    least, most = (duration(each) if each >= 1 else "0 s" for each in seconds)
    if most == "0 s":
        return "under 1 s"
    first, _, unit = least.partition(" ")
    return least if least == most else f"{first}-{most}" if unit == most.partition(" ")[2] else f"{least}-{most}"


def head(plan: RunPlan) -> list[str]:
    """What is planned, and on what."""
    memory = "" if plan.machine_memory is None else f", {size(plan.machine_memory)} of memory"
    on = plan.machine if plan.devices == 1 else f"{plan.devices} x {plan.machine}"
    how = "" if plan.strategy == "one" else f", {STRATEGIES[plan.strategy]}"  # type: ignore[index]
    return [
        f"{plan.name}: {plan.model}, {number(plan.parameters)} parameters ({plan.family})",
        f"on {on}{how}{memory}; operations a second {plan.rates}",
    ]


def table(plan: RunPlan) -> list[str]:
    """Lines of a table, its heading first: what each stage takes."""
    rows = [_HEADING, *(_row(stage) for stage in plan.stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADING))]
    return [_line(row, widths) for row in rows]


_HEADING = ("stage", "what", "steps", "tokens", "operations", "memory", "disk", "time")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    cells = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(cells).rstrip()


def _row(stage: StagePlan) -> tuple[str, ...]:
    return (
        stage.stage,
        stage.what,
        str(stage.steps) if stage.steps else "",
        ("" if stage.exact else "~") + _letters(stage.tokens) if stage.tokens else "",
        f"{stage.operations:.1e}" if stage.operations else "",
        (size(stage.memory.peak) + (" !" if stage.fits is False else "")) if stage.memory else "",
        size(stage.disk) if stage.disk else "",
        span(stage.seconds),
    )


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
    timed = list(dict.fromkeys(stage.stage for stage in plan.stages if stage.measured))
    seen = f"; time of {', '.join(timed)} as measured in {plan.measured_in}" if timed else ""
    room = f"at most {size(plan.peak)} of memory and {size(plan.disk)} of disk{free}"
    return f"in all: {span(plan.seconds)}, {room}{seen}"


def advice(plan: RunPlan) -> list[str]:
    """Whether to retrain instead, with the figures that say so; nothing where nothing is unlearned."""
    told = plan.advice
    if told is None and not any(stage.stage == "train" for stage in plan.stages):
        return []
    return [_HOW_TO_ASK if told is None else _compared(told)]


_HOW_TO_ASK = (
    "retrain or unlearn: with --retrain-tokens N, the tokens that the target was trained on, one request is "
    "compared with training the target again without these rows"
)


def _compared(told: Advice) -> str:
    without = "these rows"
    if told.earlier:
        without += f" and those of {told.earlier} earlier request{'s' * (told.earlier > 1)}"
    source = "measured when it was built here" if "retraining" in told.measured else f"by {told.retrain_source}"
    of_request = f"as measured in {told.measured_in}" if told.measured_in is not None else "as planned above"
    figures = (
        f"retrain or unlearn: training the target again without {without} takes {span(told.retrain_seconds)} "
        f"({number(told.retrain_tokens)} tokens, {source}); one request like this takes {span(told.request_seconds)} "
        f"({of_request}; {span(told.unlearn_seconds)} of it trains the methods). {_exchange(told)}."
    )
    promise = "a verdict is what tests found, and only a retrained model never saw the rows"
    return f"{figures} {_CHOICE[told.better]}: {promise}."


_CHOICE = {
    "retrain": "Retraining is the better choice here, by its cost and by what it promises",
    "unlearn": (
        "Unlearning is cheaper unless that many requests wait, which one retraining could leave out together; retrain "
        "also where the promise must be strict"
    ),
    "either": (
        "Neither is clearly cheaper; retrain if more requests wait, which one retraining could leave out together, or "
        "where the promise must be strict"
    ),
}


def _exchange(told: Advice) -> str:
    """How many of the cheaper one the other one costs."""
    least, most = told.requests_per_retraining
    if most < 1:
        return f"One request costs as much as {_times((1 / most, 1 / least))} retrainings"
    return f"One retraining costs as much as {_times((least, most))} requests"


def _times(ratio: Sequence[float]) -> str:
    """A range of counts: 0.5, 2.0 to 5.1, 12 to 30."""
    least, most = (number(each) if each >= 10 else f"{each:.1f}" if each >= 1 else f"{each:.1g}" for each in ratio)
    return least if least == most else f"{least} to {most}"


def told(plan: RunPlan) -> list[str]:
    """The whole plan.

    Args:
        plan: Of a run.
    """
    return [*head(plan), "", *table(plan), "", *notes(plan), total(plan), *advice(plan)]


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
