"""Curves of retraining: the forget score step by step, at every rate, beside the model that never knew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..verification.recovery import NEVER_KNEW, RecoveryCurve, RecoveryRow, first_reached
from .figures import FIGURE_WIDTH, colour, legend, look, panels
from .recovery import TAUGHT_WORDS, TUNING_WORDS
from .results import Results, Subject
from .words import metric_label

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEFORE = 0.5
"""Where the score before the attack is drawn, on an axis of powers of two."""


def recovery_figure(results: Results, attack: str, metric: str | None = None) -> Figure | None:
    """A row of panels per model, a column per way of training; thin lines are other rates than the fastest.

    Args:
        results: The report that was read.
        attack: Name of the attack.
        metric: Which metric; the headline if left out.

    Returns:
        The figure, or ``None`` if there are no curves in this metric.
    """
    metric = metric or results.headline
    rows = [row for row in results.report.recovery or () if (row.attack, row.metric) == (attack, metric)]
    ways = list(dict.fromkeys((row.taught, row.tuning) for row in rows))
    shown = [subject for subject in results.judged if any(row.model == subject.name for row in rows)]
    if not shown:
        return None
    with look():
        width = min(FIGURE_WIDTH, 1.4 + 2.5 * len(ways))
        figure, grid = panels(len(shown), len(ways), width=width, height=1.75)
        for line, subject in zip(grid, shown, strict=True):
            for ax, (taught, tuning) in zip(line, ways, strict=True):
                own = next(
                    (row for row in rows if (row.model, row.taught, row.tuning) == (subject.name, taught, tuning)),
                    None,
                )
                if own is not None:
                    _panel(ax, own, _curves(results, own, subject.name), _curves(results, own, NEVER_KNEW))
                if subject is shown[0]:
                    ax.set_title(_title(taught, tuning), fontsize=8.5)
            _name_row(line[0], subject)
        _axes(grid, rows)
        figure.supxlabel("steps of retraining", fontsize=9)
        figure.supylabel(metric_label(metric), fontsize=9)
        legend(figure, _keys(rows))
    return figure


def _curves(results: Results, row: RecoveryRow, model: str) -> list[RecoveryCurve]:
    """Of one model, under the attack and in the metric and way of a row."""
    return [
        curve
        for run in results.report.attacks
        if (run.name, run.model) == (row.attack, model)
        for curve in run.curves or ()
        if (curve.metric, curve.taught, curve.tuning) == (row.metric, row.taught, row.tuning)
    ]


def _panel(ax: Axes, row: RecoveryRow, own: Sequence[RecoveryCurve], never: Sequence[RecoveryCurve]) -> None:
    ax.axhline(row.half, color=colour("vermillion"), linewidth=1.1, linestyle=(0, (4, 2)))
    fastest = _fastest(own, row.half)
    for curve in own:
        thin = curve is not fastest
        _line(ax, curve, curve.forget, "blue", width=0.8 if thin else 1.8, alpha=0.45 if thin else 1.0)
    if never:
        best = _fastest(never, row.half)
        _line(ax, best, best.forget, "green", width=1.5, marker="D")
    elif row.floor == "holdout":
        _line(ax, fastest, fastest.holdout, "green", width=1.5, marker="D")
    if row.steps is not None:
        place = fastest.steps.index(row.steps)
        ax.plot(
            _places([row.steps])[0], fastest.forget[place], "o", ms=8, mfc="none", mew=1.6, mec=colour("ink"), zorder=5
        )


def _line(
    ax: Axes,
    curve: RecoveryCurve,
    values: Sequence[float],
    tone: str,
    *,
    width: float,
    alpha: float = 1.0,
    marker: str = "o",
) -> None:
    ax.plot(
        _places(curve.steps),
        values,
        marker,
        linestyle="-",
        linewidth=width,
        ms=2 + width,
        color=colour(tone),
        alpha=alpha,
        clip_on=False,
    )
    if curve.ended in ("retain lost", "diverged"):
        ax.plot(_places(curve.steps)[-1], values[-1], "X", ms=6, color=colour(tone), alpha=alpha, clip_on=False)


def _fastest(curves: Sequence[RecoveryCurve], half: float) -> RecoveryCurve:
    """The curve that reaches half first; where none does, the one that comes nearest."""
    found = first_reached(curves, half)
    if found is not None:
        return next(curve for curve in curves if curve.learning_rate == found.learning_rate)
    return max(curves, key=lambda curve: max(curve.forget))


def _places(steps: Sequence[int]) -> list[float]:
    return [step or _BEFORE for step in steps]


def _axes(grid: Sequence[Sequence[Axes]], rows: Sequence[RecoveryRow]) -> None:
    most = max(row.within or 1 for row in rows)
    ticks = [_BEFORE]
    while ticks[-1] * 8 <= most:
        ticks.append(ticks[-1] * 8 if ticks[-1] > _BEFORE else 1.0)
    for line in grid:
        for ax in line:
            ax.set_xscale("log", base=2)
            ax.set_xlim(_BEFORE * 0.85, most * 1.15)
            ax.set_xticks(ticks, ["0", *(f"{tick:,.0f}" for tick in ticks[1:])])
            ax.minorticks_off()
            ax.set_ylim(-0.02, 1.02)
            ax.set_yticks([0, 0.5, 1.0], ["0", "0.5", "1"])
            ax.grid(visible=True)
            ax.set_axisbelow(True)


def _title(taught: str | None, tuning: str | None) -> str:
    return f"{TUNING_WORDS.get(tuning or '', tuning)}\n{TAUGHT_WORDS.get(taught or '', taught)}"


def _name_row(first: Axes, subject: Subject) -> None:
    first.set_ylabel(subject.label, fontweight="bold", fontsize=9)


def _keys(rows: Sequence[RecoveryRow]) -> list[Artist]:
    from matplotlib.lines import Line2D

    floors = {row.floor for row in rows}
    keys: list[Artist] = [
        Line2D([], [], marker="o", ms=4, color=colour("blue"), linewidth=1.8, label="fastest rate"),
        Line2D([], [], marker="o", ms=3, color=colour("blue"), linewidth=0.8, alpha=0.45, label="other rates"),
        Line2D([], [], color=colour("vermillion"), linewidth=1.1, linestyle=(0, (4, 2)), label="half of the target"),
        Line2D([], [], marker="o", ms=8, mfc="none", mew=1.6, mec=colour("ink"), linestyle="", label="half is back"),
        Line2D([], [], marker="X", ms=6, color=colour("muted"), linestyle="", label="retain lost, or diverged"),
    ]
    if floors & {"never_knew", "holdout"}:
        name = "never-knew" if "never_knew" in floors else "holdout facts"
        keys.append(Line2D([], [], marker="D", ms=4, color=colour("green"), linewidth=1.5, label=name))
    return keys
