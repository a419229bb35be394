"""From outcomes to the page: one table for each kind of fact, means over seeds with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

from scipy.stats import t

from benchmarks.frontier.methods import METHODS, PLAIN
from benchmarks.frontier.outcome import JUDGED, Outcome
from hf_unlearn.reporting.words import show

LOWEST, HIGHEST, KEPT, FLUENT, MOST_COST = -0.15, 0.10, 0.97, 0.95, 6.0


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of a mean over seeds; both ends the mean where there is one seed."""
    if len(values) < 2:
        return values[0], values[0]
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def relative_cost(outcome: Outcome, of: Mapping[tuple[str, int], float]) -> float:
    """Floating-point operations over those of plain NPO + KL in the same cell."""
    return outcome.operations / of[outcome.kind, outcome.seed]


def plain_costs(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], float]:
    """Operations of plain NPO + KL by kind and seed."""
    return {(one.kind, one.seed): one.operations for one in outcomes if one.method == PLAIN}


def reaches(outcome: Outcome, cost: float) -> bool:
    """Whether one cell has everything that was to be reached."""
    between = all(outcome.lowest[name] >= LOWEST for name in JUDGED)
    low = all(max(outcome.identity[name], outcome.formats[name], outcome.rtt[name]) <= HIGHEST for name in JUDGED)
    fluent = outcome.fluency is None or outcome.fluency >= FLUENT
    return between and low and fluent and outcome.utility >= KEPT and cost <= MOST_COST


def kind_table(outcomes: Sequence[Outcome], never: str) -> str:
    """Methods against what was measured, for one kind of fact.

    Args:
        outcomes: Of that kind, all seeds.
        never: The control that never knew: it reaches nothing, and costs what training anew costs.
    """
    costs = plain_costs(outcomes)
    lines = [
        "| method | as it stands, p | mc | formats, p | mc | RTT, p | mc | retain kept | fluency | cost "
        "| seeds that reach it |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (*METHODS, never):
        mine = sorted((one for one in outcomes if one.method == name), key=lambda one: one.seed)
        if not mine:
            continue
        cells = [
            *(_cell(mine, lambda one, metric=metric: one.identity[metric]) for metric in JUDGED),
            *(_cell(mine, lambda one, metric=metric: one.formats[metric]) for metric in JUDGED),
            *(_cell(mine, lambda one, metric=metric: one.rtt[metric]) for metric in JUDGED),
            _cell(mine, lambda one: one.utility),
            _fluency(mine),
        ]
        factors = [relative_cost(one, costs) for one in mine]
        reached = f"{sum(reaches(one, factor) for one, factor in zip(mine, factors, strict=True))} of {len(mine)}"
        told = "" if name == never else reached
        lines.append(f"| {name} | {' | '.join(cells)} | {fmean(factors):.1f} | {told} |")
    return "\n".join(lines)


def _cell(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> str:
    values = [value(one) for one in outcomes]
    low, high = interval(values)
    spread = f" [{show(low, 2)}, {show(high, 2)}]" if len(values) > 1 else ""
    return show(fmean(values), 2) + spread


def _fluency(outcomes: Sequence[Outcome]) -> str:
    values = [one.fluency for one in outcomes if one.fluency is not None]
    return show(fmean(values) if values else None, 2)


def methods_table(outcomes: Sequence[Outcome]) -> str:
    """What each method is of which there is an outcome."""
    lines = ["| method | what |", "|---|---|"]
    there = {one.method for one in outcomes}
    return "\n".join([*lines, *(f"| {one.name} | {one.says} |" for one in METHODS.values() if one.name in there)])
