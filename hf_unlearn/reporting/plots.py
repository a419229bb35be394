"""The plots of a report: forget scores, recovered shares, retain scores, and all of them as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..verification.recovered import RecoveredRow
from ..verification.references import IDENTITY
from .figures import (
    FIGURE_WIDTH,
    ROW_HEIGHT,
    SHARE_MARKERS,
    SHARE_RANGE,
    colour,
    interval_line,
    label_rows,
    legend,
    look,
    margin_value,
    panels,
    save,
    separate_kinds,
    status_colour,
    unit_axis,
    wrapped_panels,
)
from .plot_explanation import explanation_figure, layers_figure
from .plot_recovery import recovery_figure
from .recovery import recovery_attacks
from .results import Results, Subject, Transform
from .sentences import control_note
from .words import metric_label, metric_phrase, show

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_plots(report: Mapping[str, Any], folder: Path | str, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Write all plots that the report has numbers for.

    Args:
        report: The report as JSON has it.
        folder: Target folder; created if missing.
        formats: ``svg``, ``png`` or both.

    Returns:
        The files: ``forget_score``, ``recovered_share``, ``retain_score``, ``explanation``, ``explanation_layers`` and
        ``recovery_<attack>``, in each format.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(report)
    draws: dict[str, Callable[[Results], Figure | None]] = {
        "forget_score": forget_figure,
        "recovered_share": recovered_figure,
        "retain_score": retain_figure,
        "explanation": explanation_figure,
        "explanation_layers": layers_figure,
        **{f"recovery_{name}": partial(recovery_figure, attack=name) for name in recovery_attacks(results)},
    }
    written = []
    for name, draw in draws.items():
        figure = draw(results)
        if figure is None:
            continue
        for suffix in formats:
            written.append(folder / f"{name}.{suffix}")
            save(figure, written[-1])
    return written


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
    before = results.value(subject.name, IDENTITY, "forget", metric)
    if before is not None:
        ax.axvline(before, color=colour("blue"), linewidth=1, linestyle=(0, (2, 2)), alpha=0.7)
    for row, transform in enumerate(transforms):
        for name, marker, tone in (("target", "|", "vermillion"), ("never_knew", "D", "green")):
            known = results.value(name, transform.name, "forget", metric)
            if known is not None and name != subject.name:
                interval = results.interval(name, transform.name, "forget", metric)
                interval_line(ax, row, interval, tone, width=1.0)
                face = colour(tone) if marker == "|" else "none"
                size = 13.0 if marker == "|" else 8.5
                ax.plot(
                    known,
                    row,
                    marker,
                    ms=size,
                    mew=1.8 if marker == "|" else 1.3,
                    mec=colour(tone),
                    mfc=face,
                    clip_on=False,
                )
        value = results.value(subject.name, transform.name, "forget", metric)
        if value is None:
            margin_value(ax, row, "–")
            continue
        if before is not None:
            ax.plot(
                [before, value],
                [row, row],
                color=colour("blue"),
                linewidth=4,
                alpha=0.3,
                solid_capstyle="butt",
            )
        interval_line(ax, row, results.interval(subject.name, transform.name, "forget", metric), "ink", width=1.3)
        ax.plot(value, row, "o", ms=5, color=colour("blue"), clip_on=False, zorder=4)
        margin_value(ax, row, show(value, 2), tone="ink")
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


def recovered_figure(results: Results, subjects: Sequence[Subject] | None = None) -> Figure | None:
    """Recovered share with interval and limit: a row of panels per model, a column per metric of the gate.

    Args:
        results: The report that was read.
        subjects: Which models; all that were judged if left out.

    Returns:
        The figure, or ``None`` if the report has no recovered share of these models.
    """
    chosen = results.judged if subjects is None else subjects
    shown = [
        subject
        for subject in chosen
        if any(share.recovered_share is not None for share in results.shares(subject.name))
    ]
    if not shown:
        return None
    rows = {share.transform for subject in shown for share in results.shares(subject.name)}
    transforms = [transform for transform in results.transforms if transform.name in rows]
    # What the gate does not judge has no limit to draw.
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
        if share is None or share.recovered_share is None:
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
    """Limits of the gate as lines over the rows they hold for; the area outside them is tinted."""
    low, high = SHARE_RANGE
    least = results.gate.min_recovered_share if results.gate else None
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


def _share_point(ax: Axes, row: int, share: RecoveredRow) -> None:
    value = share.recovered_share
    assert value is not None
    tone = status_colour(share.status)
    if share.ci95 is not None:
        ax.plot(list(share.ci95), [row, row], color=tone, linewidth=1.4, marker="|", ms=6, mew=1.4)
    low, high = SHARE_RANGE
    if value < low or value > high:
        edge = max(low, min(high, value))
        ax.plot(edge, row, "<" if value < low else ">", ms=7, color=tone, clip_on=False)
    else:
        ax.plot(
            value,
            row,
            SHARE_MARKERS.get(share.status or "", "d"),
            ms=7.5,
            mfc=tone,
            mec=colour("paper"),
            mew=0.8,
            zorder=4,
        )
    margin_value(ax, row, show(value, 2), tone="ink")


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


def retain_figure(results: Results, metric: str | None = None) -> Figure | None:
    """Retain score against forget score, a row per model, a panel per transform: far apart is good.

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
        values = {split: results.value(subject.name, transform.name, split, metric) for split in ("forget", "retain")}
        forget, retain = values["forget"], values["retain"]
        if forget is not None and retain is not None:
            ax.plot([forget, retain], [row, row], color=colour("line"), linewidth=2)
        # Half a row apart if both are at the same spot, so that neither hides the other.
        for split, tone, marker, lift in (("forget", "vermillion", "D", 0.13), ("retain", "blue", "o", -0.13)):
            value = values[split]
            if value is not None:
                interval = results.interval(subject.name, transform.name, split, metric)
                interval_line(ax, row + lift, interval, tone, width=1.3)
                ax.plot(value, row + lift, marker, ms=4.5, color=colour(tone), clip_on=False, zorder=4)
    ax.set_title(transform.label)


def _least_retain(results: Results, transform: Transform, metric: str | None) -> float | None:
    """The retain score that the gate asks for under this transform."""
    known = results.value("target", transform.name, "retain", metric)
    return None if known is None or results.gate is None else known * results.gate.min_utility


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
