"""The retain score beside the forget score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..verification.report_rows import Subject, Transform, number
from .figures import interval_line, label_rows, legend, look, unit_axis, wrapped_panels
from .results import Results
from .style import colour
from .words import metric_label

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def retain_figure(results: Results, metric: str | None = None) -> Figure | None:
    """Retain score beside forget score, a row per model, a panel per transform: far apart is good.

    Args:
        results: The report that was read.
        metric: Which metric; the headline if left out.

    Returns:
        The figure, or ``None`` if no retain score was measured in this metric.
    """
    metric = metric or results.headline
    shown = [subject for subject in results.subjects if results.was_scored(subject.name, "retain", metric)]
    transforms = [t for t in results.transforms if any(results.score(s.name, t.name, "retain", metric) for s in shown)]
    if not shown:
        return None
    with look():
        figure, grid = wrapped_panels(len(transforms), len(shown), lines_of_title=1)
        for ax, transform in zip(grid, transforms, strict=False):
            _retain_panel(ax, results, shown, transform, metric)
        figure.supxlabel(f"{metric_label(metric)}, with {results.intervals}", fontsize=9)
        legend(figure, _retain_keys(results, transforms, metric))
    return figure


def _retain_panel(
    ax: Axes, results: Results, subjects: Sequence[Subject], transform: Transform, metric: str | None
) -> None:
    label_rows(ax, [subject.label for subject in subjects])
    unit_axis(ax)
    least = _least_retain(results, transform, metric)
    if least is not None:
        ax.axvline(least, color=colour("muted"), linewidth=1.1, linestyle=(0, (4, 2)))
    for row, subject in enumerate(subjects):
        forget = results.score(subject.name, transform.name, "forget", metric)
        retain = results.score(subject.name, transform.name, "retain", metric)
        if forget is not None and retain is not None:
            ax.plot([forget.value, retain.value], [row, row], color=colour("line"), linewidth=2)
        # Half a row apart where both stand on the same spot, so that neither hides the other.
        for score, tone, marker, lift in ((forget, "vermillion", "D", 0.13), (retain, "blue", "o", -0.13)):
            if score is not None:
                interval_line(ax, row + lift, score, tone, width=1.3)
                ax.plot(score.value, row + lift, marker, ms=4.5, color=colour(tone), clip_on=False, zorder=4)
    ax.set_title(transform.label)


def _least_retain(results: Results, transform: Transform, metric: str | None) -> float | None:
    """The retain score that the gate asks for under this transform."""
    known = results.score("target", transform.name, "retain", metric)
    share = number(results.thresholds.get("min_utility"))
    return None if known is None or share is None else known.value * share


def _retain_keys(results: Results, transforms: Sequence[Transform], metric: str | None) -> list[Artist]:
    from matplotlib.lines import Line2D

    keys: list[Artist] = [
        Line2D([], [], marker="o", ms=4.5, color=colour("blue"), linestyle="", label="retain (should be high)"),
        Line2D([], [], marker="D", ms=4.5, color=colour("vermillion"), linestyle="", label="forget (should be low)"),
    ]
    if any(_least_retain(results, transform, metric) is not None for transform in transforms):
        keys.append(
            Line2D(
                [],
                [],
                color=colour("muted"),
                linewidth=1.1,
                linestyle=(0, (4, 2)),
                label="least retain score that the gate allows",
            )
        )
    return keys
