"""The picture to look at first: the forget score before and after each format and each attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..verification.report_rows import Subject, Transform
from .controls import control_note
from .figures import interval_line, label_rows, legend, look, margin_value, separate_kinds, unit_axis, wrapped_panels
from .results import Results
from .style import colour, status_colour
from .words import metric_label, show

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def forget_figure(results: Results, metric: str | None = None) -> Figure | None:
    """Forget score as it stands, in each format and after each attack: a panel per model, the references in each.

    Args:
        results: The report that was read.
        metric: Which metric; the headline if left out.

    Returns:
        The figure, or ``None`` if nothing was scored in this metric.
    """
    metric = metric or results.headline
    shown = [subject for subject in results.judged if results.was_scored(subject.name, "forget", metric)]
    shown = shown or [subject for subject in results.subjects if results.was_scored(subject.name, "forget", metric)]
    transforms = [t for t in results.transforms if any(results.score(s.name, t.name, "forget", metric) for s in shown)]
    if not shown:
        return None
    with look():
        figure, grid = wrapped_panels(len(shown), len(transforms), lines_of_title=2)
        for ax, subject in zip(grid, shown, strict=False):
            _forget_panel(ax, results, subject, transforms, metric)
        figure.supxlabel(f"{metric_label(metric)} on the forget set, with {results.intervals}", fontsize=9)
        legend(figure, _forget_keys(results))
    return figure


def _forget_panel(
    ax: Axes, results: Results, subject: Subject, transforms: Sequence[Transform], metric: str | None
) -> None:
    label_rows(ax, [transform.label for transform in transforms])
    separate_kinds(ax, transforms)
    unit_axis(ax)
    before = results.score(subject.name, "identity", "forget", metric)
    if before is not None:
        ax.axvline(before.value, color=colour("blue"), linewidth=1, linestyle=(0, (2, 2)), alpha=0.7)
    for row, transform in enumerate(transforms):
        for name, marker, tone in (("target", "|", "vermillion"), ("never_knew", "D", "green")):
            known = results.score(name, transform.name, "forget", metric)
            if known is not None and name != subject.name:
                interval_line(ax, row, known, tone, width=1.0)
                face = colour(tone) if marker == "|" else "none"
                size = 13.0 if marker == "|" else 8.5
                ax.plot(
                    known.value,
                    row,
                    marker,
                    ms=size,
                    mew=1.8 if marker == "|" else 1.3,
                    mec=colour(tone),
                    mfc=face,
                    clip_on=False,
                )
        score = results.score(subject.name, transform.name, "forget", metric)
        if score is None:
            margin_value(ax, row, "–")
            continue
        if before is not None:
            ax.plot(
                [before.value, score.value],
                [row, row],
                color=colour("blue"),
                linewidth=4,
                alpha=0.3,
                solid_capstyle="butt",
            )
        interval_line(ax, row, score, "ink", width=1.3)
        ax.plot(score.value, row, "o", ms=5, color=colour("blue"), clip_on=False, zorder=4)
        margin_value(ax, row, show(score.value, 2), tone="ink")
    _panel_title(ax, subject)


def _panel_title(ax: Axes, subject: Subject) -> None:
    role = subject.role_words
    status = f"{role}: {subject.status}" if subject.status else role
    if subject.is_control and control_note(subject):
        status += f", {control_note(subject)}"
    ax.set_title(subject.label, pad=15, fontweight="bold")
    ax.text(
        0,
        1,
        status,
        transform=ax.transAxes,
        fontsize=8,
        va="bottom",
        color=status_colour(subject.status),
        in_layout=False,
    )


def _forget_keys(results: Results) -> list[Artist]:
    from matplotlib.lines import Line2D

    keys: list[Artist] = [
        Line2D([], [], marker="o", ms=5, color=colour("blue"), linestyle="", label="this model"),
        Line2D([], [], color=colour("blue"), linewidth=1, linestyle=(0, (2, 2)), label="this model as is"),
        Line2D([], [], color=colour("blue"), linewidth=4, alpha=0.3, label="what changed"),
        Line2D([], [], marker="|", ms=12, mew=1.8, color=colour("vermillion"), linestyle="", label="target (knows)"),
    ]
    if any(subject.role == "never_knew" for subject in results.subjects):
        keys.append(
            Line2D(
                [], [], marker="D", ms=7.5, mew=1.3, mfc="none", mec=colour("green"), linestyle="", label="never-knew"
            )
        )
    return keys
