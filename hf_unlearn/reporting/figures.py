"""What all plots share: colours, the look, grids of panels, rows, intervals, legends, and how a figure is written.

The palette is that of Okabe and Ito (2008), which people with the usual colour deficiencies can distinguish; and
colour alone never carries meaning. In the page every plot colour becomes a CSS variable, so that plots follow the
reader's light or dark theme. The bytes of a written figure depend on the numbers alone.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..verification.values import Interval
from .results import Transform

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tone:
    """One colour in both themes, as ``#rrggbb``."""

    light: str
    dark: str


PALETTE: dict[str, Tone] = {
    "ink": Tone("#1f2430", "#e8eaf0"),
    "muted": Tone("#5c6370", "#a9b0bd"),
    "line": Tone("#d4d8df", "#434a57"),
    "blue": Tone("#0072b2", "#56b4e9"),
    "vermillion": Tone("#d55e00", "#ff9a4d"),
    "green": Tone("#00795b", "#3ecfa5"),
    "amber": Tone("#8f6400", "#e8b84a"),
    "wash": Tone("#fcf3ec", "#2b221d"),
    "paper": Tone("#ffffff", "#171a21"),
}
STATUS_COLOURS = {"passed": "green", "failed": "vermillion", "inconclusive": "amber"}


def colour(name: str) -> str:
    """The light colour called ``name``."""
    return PALETTE[name].light


def status_colour(status: str | None) -> str:
    """The light colour of a verdict."""
    return colour(STATUS_COLOURS.get(status or "", "muted"))


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
PNG_DPI = 160
# A little over true size (4/3), so that the text of a plot is as large as that of the page.
CSS_PIXELS_PER_POINT = 1.5
# Recovered shares outside this are drawn at its edge, as arrows: one collapsed model must not flatten all others.
SHARE_RANGE = (-0.5, 1.3)
SHARE_MARKERS = {"passed": "o", "failed": "X", "inconclusive": "s"}


@contextmanager
def look() -> Iterator[None]:
    """Draw and save with the look of this project, whatever the user's own matplotlib settings are."""
    import matplotlib.style

    with matplotlib.style.context(["default", _LOOK]), warnings.catch_warnings():
        # Model names may be in any script; the reader's fonts draw them, not the one used for measuring here.
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
    """A number next to the panel, on its row; ``line`` moves it down, in rows."""
    ax.text(1.02, row + line, text, transform=ax.get_yaxis_transform(), fontsize=8, va="center", color=colour(tone))


def unit_axis(ax: Axes) -> None:
    """An axis for scores between 0 and 1."""
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])


def interval_line(ax: Axes, row: float, interval: Interval, tone: str, *, width: float) -> None:
    """An interval as a line with ends; nothing if there is none."""
    if interval is not None:
        ax.plot(list(interval), [row, row], color=colour(tone), linewidth=width, marker="|", ms=4, mew=width)


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


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG (by suffix), the same bytes for the same numbers."""
    with look():
        if path.suffix == ".svg":
            path.write_text(svg_text(figure), encoding="utf-8")
        else:
            figure.savefig(path, format="png", dpi=PNG_DPI, metadata={"Software": None})


def svg_text(figure: Figure) -> str:
    """The figure as a stand-alone SVG document."""
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8")


def inline_svg(figure: Figure, *, key: str, title: str) -> str:
    """The figure as an ``<svg>`` element for a page: named for screen readers, scaled and coloured by the page.

    Args:
        figure: The figure.
        key: Prefix of all ids in it, unique in the page.
        title: Text for screen readers.
    """
    text = svg_text(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # One rule for all elements: it would hold for the whole page, whose own style sheet has it for its plots.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"\s*\n\s*", "\n", text)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = text.replace("url(#", f"url(#{key}-").replace('xlink:href="#', f'href="#{key}-')
    for name, tone in PALETTE.items():
        text = text.replace(tone.light, f"var(--{name})")
    box = _view_box(text)
    width = float(box.split()[2]) * CSS_PIXELS_PER_POINT
    head = f'<svg role="img" aria-labelledby="{key}-title" viewBox="{box}" style="max-width: {width:.0f}px">'
    return head + f'<title id="{key}-title">{escape(title)}</title>' + text[text.index(">") + 1 :].strip()


def _view_box(svg: str) -> str:
    found = re.search(r'viewBox="([^"]+)"', svg)
    if found is None:
        raise ValueError("the SVG writer of matplotlib left out the view box")
    return found.group(1)
