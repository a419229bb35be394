"""What unlearning did to weights on every grid, and what comes back in the format of that grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .explanation import Explained, InFormat, explained
from .figures import (
    FIGURE_WIDTH,
    ROW_HEIGHT,
    SHARE_MARKERS,
    SHARE_RANGE,
    colour,
    label_rows,
    legend,
    look,
    margin_value,
    status_colour,
)
from .results import Results
from .words import percent, show

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Formats take these in turn; markers distinguish lines that share a colour.
LINE_TONES = ("blue", "vermillion", "green", "amber", "muted", "ink")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LINE_MARKERS = ("o", "s", "D", "^", "v", "P")


def explanation_figure(results: Results) -> Figure | None:
    """Codes changed, update over step and recovered share: a row of panels per model, a line per format.

    Returns:
        The figure, or ``None`` if the report explains nothing.
    """
    shown = [row for row in explained(results) if row.formats]
    if not shown:
        return None
    lines = max(len(row.formats) for row in shown)
    with look():
        figure, grid = _panels(len(shown), 3, height=0.62 + ROW_HEIGHT * lines)
        for axes, row in zip(grid, shown, strict=True):
            label_rows(axes[0], [on.format for on in row.formats])
            _bars(axes[0], row.formats, "codes changed", lambda on: on.weights.codes_changed, percent)
            _bars(
                axes[1],
                row.formats,
                "mean update over step",
                lambda on: on.weights.update_over_step,
                lambda x: show(x, 3),
            )
            _shares(axes[2], row.formats)
            axes[0].annotate(
                row.model, (0, 1), (0, 19), xycoords="axes fraction", textcoords="offset points",
                fontsize=9.5, fontweight="bold",
            )  # fmt: skip
        legend(figure, _share_keys(any(on.noise is not None for row in shown for on in row.formats)))
    return figure


def layers_figure(results: Results) -> Figure | None:
    """Codes changed by layer and format, and moved weights by magnitude: a row of panels per model.

    Returns:
        The figure, or ``None`` if the report explains nothing.
    """
    shown = [row for row in explained(results) if row.layers]
    if not shown:
        return None
    names = list(dict.fromkeys(on.format for row in shown for on in row.formats))
    with look():
        figure, grid = _panels(len(shown), 2, height=1.95, share_rows=False)
        for axes, row in zip(grid, shown, strict=True):
            _by_layer(axes[0], row, names)
            _by_magnitude(axes[1], row)
            axes[0].annotate(
                row.model, (0, 1), (0, 19), xycoords="axes fraction", textcoords="offset points",
                fontsize=9.5, fontweight="bold",
            )  # fmt: skip
        legend(figure, _layer_keys(names))
    return figure


def _panels(rows: int, columns: int, *, height: float, share_rows: bool = True) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(wspace=0.05, hspace=0.04, w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(FIGURE_WIDTH, rows * height + 0.75), layout=engine)
    axes = figure.subplots(rows, columns, sharey="row" if share_rows else False, squeeze=False)
    return figure, [list(line) for line in axes]


def _bars(
    ax: Axes,
    rows: Sequence[InFormat],
    title: str,
    value_of: Callable[[InFormat], float | None],
    words: Callable[[float | None], str],
) -> None:
    """Bars from 0 to 1; a longer one ends at the edge, and the number next to it gives its length."""
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1.0], ["0", "0.5", "1"])
    for line, row in enumerate(rows):
        value = value_of(row)
        if value is not None:
            ax.barh(line, min(value, 1.0), height=0.5, color=colour("blue"))
        margin_value(ax, line, words(value), tone="ink")
    ax.set_title(title)


def _shares(ax: Axes, rows: Sequence[InFormat]) -> None:
    low, high = SHARE_RANGE
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    ax.set_xlim(low, high)
    ax.set_xticks([-0.5, 0.0, 0.5, 1.0])
    ax.axvline(0, color=colour("muted"), linewidth=0.8)
    for line, row in enumerate(rows):
        if row.noise is not None:
            ax.plot(
                min(max(row.noise.noise_share, low), high), line, "|", ms=13, mew=2.2, color=colour("muted"), zorder=3
            )
        if row.share is None or row.share.recovered_share is None:
            margin_value(ax, line, "–")
            continue
        value = row.share.recovered_share
        marker = SHARE_MARKERS.get(row.share.status or "", "d")
        ax.plot(
            min(max(value, low), high), line, marker, ms=7.5, mfc=status_colour(row.share.status),
            mec=colour("paper"), mew=0.8, zorder=4, clip_on=False,
        )  # fmt: skip
        margin_value(ax, line, show(value, 2), tone="ink")
    ax.set_title("recovered share (largest of the gate)")


def _by_layer(ax: Axes, row: Explained, names: Sequence[str]) -> None:
    places = range(len(row.layers))
    grids = {found.format: found.grid for found in row.formats}
    for index, name in enumerate(names):
        on_grid = [layer.grids.get(grids.get(name, "")) for layer in row.layers]
        points = [(place, on.codes_changed) for place, on in enumerate(on_grid) if on is not None]
        known = [(place, value) for place, value in points if value is not None]
        if known:
            ax.plot(
                *zip(*known, strict=True), marker=_marker(index), ms=4.5, color=_tone(index), linewidth=1.3,
                clip_on=False,
            )  # fmt: skip
    step = max(1, len(row.layers) // 12)
    ax.set_xticks(list(places)[::step], [layer.layer for layer in row.layers][::step])
    ax.set_xlabel("layer")
    _unit_heights(ax)
    ax.set_title("codes changed, by layer")


def _by_magnitude(ax: Axes, row: Explained) -> None:
    places = range(len(row.magnitudes))
    ax.bar(places, [bucket.weights or 0.0 for bucket in row.magnitudes], width=0.8, color=colour("line"))
    moved = [bucket.moved or 0.0 for bucket in row.magnitudes]
    ax.plot(places, moved, "o-", ms=4.5, color=colour("ink"), linewidth=1.3, clip_on=False)
    ax.set_xticks(places, [_power(bucket.high) for bucket in row.magnitudes])
    ax.set_xlabel("|weight| before, up to")
    _unit_heights(ax)
    ax.set_title("moved weights, by magnitude")


def _power(value: float | None) -> str:
    """Edges are powers of two."""
    if value is None:
        return "more"
    exponent = round(math.log2(value))
    return "2" + str(exponent).translate(_SUPERSCRIPTS)


def _unit_heights(ax: Axes) -> None:
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.5, 1.0], ["0", "0.5", "1"])
    ax.grid(axis="y")
    ax.set_axisbelow(True)


def _tone(index: int) -> str:
    return colour(LINE_TONES[index % len(LINE_TONES)])


def _marker(index: int) -> str:
    return LINE_MARKERS[(index + index // len(LINE_TONES)) % len(LINE_MARKERS)]


def _share_keys(with_noise: bool) -> list[Artist]:
    from matplotlib.lines import Line2D

    keys: list[Artist] = [
        Line2D(
            [], [], marker=marker, ms=7, mew=0.8, mec=colour("paper"), color=status_colour(status), ls="", label=status
        )
        for status, marker in SHARE_MARKERS.items()
    ]
    if with_noise:
        keys.append(
            Line2D([], [], marker="|", ms=11, mew=2.2, color=colour("muted"), ls="", label="noise of the same size")
        )
    return keys


def _layer_keys(names: Sequence[str]) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys: list[Artist] = [
        Line2D([], [], marker=_marker(index), ms=4.5, color=_tone(index), linewidth=1.3, label=name)
        for index, name in enumerate(names)
    ]
    keys.append(Line2D([], [], marker="o", ms=4.5, color=colour("ink"), linewidth=1.3, label="share that moved"))
    keys.append(Patch(color=colour("line"), label="share of all weights"))
    return keys
