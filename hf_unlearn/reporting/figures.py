"""What all plots share: the look, grids of panels, rows, intervals and legends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from ..verification.report_rows import Score, Transform
from .style import colour

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_LINE = 4
FIGURE_WIDTH = 11.0
ROW_HEIGHT = 0.29
LEGEND_KEY_WIDTH = 2.1
_LOOK = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": colour("muted"),
    "axes.labelcolor": colour("ink"),
    "axes.titlecolor": colour("ink"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": colour("line"),
    "grid.linewidth": 0.6,
    "text.color": colour("ink"),
    "text.parse_math": False,
    "xtick.color": colour("muted"),
    "xtick.labelcolor": colour("muted"),
    "xtick.labelsize": 8,
    "ytick.color": colour("ink"),
    "ytick.left": False,
    "figure.facecolor": colour("paper"),
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_unlearn",
}


@contextmanager
def look() -> Iterator[None]:
    """Draw and save with the look of this project, whatever the user's own matplotlib settings are."""
    import matplotlib.style

    with matplotlib.style.context(["default", _LOOK]), warnings.catch_warnings():
        # Model names may be in any script; the reader's fonts draw them, not the one that is measured with here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def panels(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A grid of panels with shared axes.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        width: Of the whole figure, in inches.
        height: Of one panel, in inches.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(wspace=0.05, hspace=0.04, w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(width, rows * height + 0.75), layout=engine)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    return figure, [list(line) for line in axes]


def wrapped_panels(count: int, rows: int, *, lines_of_title: int) -> tuple[Figure, list[Axes]]:
    """``count`` panels of ``rows`` rows each, in lines of :data:`PANELS_PER_LINE` or fewer."""
    columns = min(count, 3 if count in (5, 6) else PANELS_PER_LINE)
    height = 0.35 + 0.2 * lines_of_title + ROW_HEIGHT * rows
    figure, grid = panels(-(-count // columns), columns, width=min(FIGURE_WIDTH, 2.4 + 2.9 * columns), height=height)
    flat = [ax for line in grid for ax in line]
    for ax in flat[count:]:
        above = flat[flat.index(ax) - columns]
        above.tick_params(labelbottom=True)
        ax.remove()
    return figure, flat[:count]


def label_rows(ax: Axes, labels: Sequence[str]) -> None:
    """One row per label, the first on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.45, -0.55)
    ax.grid(axis="x")
    ax.set_axisbelow(True)


def separate_kinds(ax: Axes, transforms: Sequence[Transform]) -> None:
    """A line between the model as it stands, the formats and the attacks."""
    for i, (before, after) in enumerate(pairwise(transforms)):
        if before.kind != after.kind:
            ax.axhline(i + 0.5, color=colour("line"), linewidth=0.9)


def margin_value(ax: Axes, row: float, text: str, *, tone: str = "muted", line: float = 0.0) -> None:
    """A number beside the panel, on its row; ``line`` moves it down, in rows."""
    ax.text(1.02, row + line, text, transform=ax.get_yaxis_transform(), fontsize=8, va="center", color=colour(tone))


def unit_axis(ax: Axes) -> None:
    """An axis for scores between 0 and 1."""
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])


def interval_line(ax: Axes, row: float, score: Score, tone: str, *, width: float) -> None:
    """The interval of a score as a line with ends; nothing where it has none."""
    if score.low is not None and score.high is not None:
        ax.plot([score.low, score.high], [row, row], color=colour(tone), linewidth=width, marker="|", ms=4, mew=width)


def legend(figure: Figure, keys: Sequence[Artist]) -> None:
    """A legend above all panels, in as many lines as it needs."""
    columns = max(1, min(len(keys), int(figure.get_figwidth() / LEGEND_KEY_WIDTH)))
    figure.legend(
        handles=list(keys),
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        handletextpad=0.5,
        columnspacing=1.6,
    )
