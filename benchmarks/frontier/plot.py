"""The frontier as a plot: what retraining brings back against what is kept, a panel for each kind of fact."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.frontier.cells import NEVER
from benchmarks.frontier.kinds import KINDS
from benchmarks.frontier.methods import METHODS
from benchmarks.frontier.outcome import Outcome
from benchmarks.frontier.table import HIGHEST, KEPT, interval, plain_costs, relative_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = "osD^vP*Xh<>pd"
"""One each, beside colours, which repeat after ten."""
LEAST_SHOWN = 0.5
"""Utility below this is drawn at the edge."""


def frontier_figure(outcomes: Sequence[Outcome]) -> Figure:
    """Recovered share under RTT (the larger of both metrics) against retained utility, with 95 % intervals.

    Args:
        outcomes: Of every kind, seed and method.

    Returns:
        The figure. The corner that was to be reached is shaded; a number beside a mark is the cost over NPO + KL.
    """
    from matplotlib.figure import Figure

    kinds = [name for name in KINDS if any(one.kind == name for one in outcomes)]
    names = [name for name in (*METHODS, NEVER) if any(one.method == name for one in outcomes)]
    figure = Figure(figsize=(4.2 * len(kinds) + 1.8, 4.2), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        _panel(panel, [one for one in outcomes if one.kind == kind], kind, names)
    shown = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend([shown[name] for name in names], names, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _panel(panel: Axes, outcomes: Sequence[Outcome], kind: str, names: Sequence[str]) -> None:
    costs = plain_costs(outcomes)
    panel.axvspan(-0.2, HIGHEST, ymin=(KEPT - LEAST_SHOWN) / (1.08 - LEAST_SHOWN), color="#1a9850", alpha=0.12, lw=0)
    for number, name in enumerate(names):
        mine = [one for one in outcomes if one.method == name]
        if not mine:
            continue
        shares, kept = [max(one.rtt.values()) for one in mine], [max(one.utility, LEAST_SHOWN) for one in mine]
        x, y = fmean(shares), fmean(kept)
        errors = [
            [middle - ends[0], ends[1] - middle] for middle, ends in ((x, interval(shares)), (y, interval(kept)))
        ]
        panel.errorbar(
            x,
            y,
            xerr=[[errors[0][0]], [errors[0][1]]],
            yerr=[[errors[1][0]], [errors[1][1]]],
            fmt=MARKS[number % len(MARKS)],
            color="black" if name == NEVER else f"C{number % 10}",
            label=name,
            capsize=2,
        )
        cost = fmean(relative_cost(one, costs) for one in mine)
        panel.annotate(f"{cost:.1f}x", (x, y), textcoords="offset points", xytext=(6, 5), fontsize=7)
    panel.set_xlim(-0.2, 1.1)
    panel.set_ylim(LEAST_SHOWN, 1.08)
    panel.set_title(kind, fontsize=10)
    panel.set_xlabel("recovered share under retraining")
    panel.set_ylabel("retain probability over the target's")
    panel.grid(alpha=0.25)
