"""Recovered shares with their intervals and the limits of the gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..verification.report_rows import Share, Subject, Transform, number
from .figures import FIGURE_WIDTH, ROW_HEIGHT, label_rows, legend, look, margin_value, panels, separate_kinds
from .results import Results
from .style import colour, status_colour
from .words import metric_phrase, show

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Recovered shares outside this are drawn at its edge, as arrows: one collapsed model must not flatten all others.
SHARE_RANGE = (-0.5, 1.3)
SHARE_MARKERS = {"passed": "o", "failed": "X", "inconclusive": "s"}


def recovered_figure(results: Results, subjects: Sequence[Subject] | None = None) -> Figure | None:
    """Recovered share with interval and limit: a row of panels per model, a column per metric of the gate.

    Args:
        results: The report that was read.
        subjects: Which models; all that were judged if left out.

    Returns:
        The figure, or ``None`` if the report has no recovered share of these models.
    """
    chosen = results.judged if subjects is None else subjects
    shown = [subject for subject in chosen if any(share.share is not None for share in results.shares(subject.name))]
    if not shown:
        return None
    rows = {share.transform for subject in shown for share in results.shares(subject.name)}
    transforms = [transform for transform in results.transforms if transform.name in rows]
    # What the gate does not judge has no limit to be drawn beside.
    metrics = results.gate_metrics or results.share_metrics
    with look():
        width = min(FIGURE_WIDTH, 2.2 + 3.2 * len(metrics))
        figure, grid = panels(len(shown), len(metrics), width=width, height=0.62 + ROW_HEIGHT * len(transforms))
        for line, subject in zip(grid, shown, strict=True):
            for ax, metric in zip(line, metrics, strict=True):
                _share_panel(ax, results, subject, transforms, metric)
            _name_line(line[0], subject)
        figure.supxlabel(
            f"recovered share (0 = never knew, 1 = knows as before), with {results.intervals}", fontsize=9
        )
        legend(figure, _share_keys())
    return figure


def _share_panel(ax: Axes, results: Results, subject: Subject, transforms: Sequence[Transform], metric: str) -> None:
    label_rows(ax, [transform.label for transform in transforms])
    separate_kinds(ax, transforms)
    ax.set_xlim(*SHARE_RANGE)
    ax.set_xticks([-0.5, 0.0, 0.5, 1.0])
    ax.axvline(0, color=colour("muted"), linewidth=0.8)
    shares = {share.transform: share for share in results.shares(subject.name) if share.metric == metric}
    _limits(ax, results, transforms)
    for row, transform in enumerate(transforms):
        share = shares.get(transform.name)
        if share is None or share.share is None:
            margin_value(ax, row, "–")
        else:
            _share_point(ax, row, share)
    ax.set_title(metric_phrase(metric))


def _name_line(first: Axes, subject: Subject) -> None:
    """The model's name above its row of panels."""
    first.annotate(
        subject.label,
        (0, 1),
        (0, 19),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9.5,
        fontweight="bold",
    )


def _limits(ax: Axes, results: Results, transforms: Sequence[Transform]) -> None:
    """Limits of the gate as lines over the rows they hold for; what lies outside them is tinted."""
    low, high = SHARE_RANGE
    least = number(results.thresholds.get("min_recovered_share"))
    for attacked in (False, True):
        rows = [row for row, transform in enumerate(transforms) if (transform.kind == "attack") == attacked]
        rows = [row for row in rows if results.limit(transforms[row].name) is not None]
        limit = results.limit(transforms[rows[0]].name) if rows else None
        if limit is None:
            continue
        span = [rows[0] - 0.5, rows[-1] + 0.5]
        ax.fill_betweenx(span, limit, high, color=colour("wash"), linewidth=0, zorder=0)
        ax.plot([limit, limit], span, color=colour("vermillion"), linewidth=1.4, solid_capstyle="butt")
        if least is not None and not attacked:
            ax.fill_betweenx(span, low, least, color=colour("wash"), linewidth=0, zorder=0)
            ax.plot([least, least], span, color=colour("vermillion"), linewidth=1.2, linestyle=":")


def _share_point(ax: Axes, row: int, share: Share) -> None:
    assert share.share is not None
    tone = status_colour(share.status)
    if share.low is not None and share.high is not None:
        ax.plot([share.low, share.high], [row, row], color=tone, linewidth=1.4, marker="|", ms=6, mew=1.4)
    low, high = SHARE_RANGE
    if share.share < low or share.share > high:
        edge = max(low, min(high, share.share))
        ax.plot(edge, row, "<" if share.share < low else ">", ms=7, color=tone, clip_on=False)
    else:
        ax.plot(
            share.share,
            row,
            SHARE_MARKERS.get(share.status or "", "d"),
            ms=7.5,
            mfc=tone,
            mec=colour("paper"),
            mew=0.8,
            zorder=4,
        )
    margin_value(ax, row, show(share.share, 2), tone="ink")


def _share_keys() -> list[Artist]:
    from matplotlib.lines import Line2D

    keys: list[Artist] = [
        Line2D(
            [],
            [],
            marker=marker,
            ms=7,
            mew=0.8,
            mec=colour("paper"),
            color=status_colour(status),
            linestyle="-",
            label=status,
        )
        for status, marker in SHARE_MARKERS.items()
    ]
    keys.append(Line2D([], [], color=colour("vermillion"), linewidth=1.4, label="limit of the gate"))
    keys.append(
        Line2D([], [], color=colour("vermillion"), linewidth=1.2, linestyle=":", label="limit of over-forgetting")
    )
    return keys
