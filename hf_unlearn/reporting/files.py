"""Plots as files and page elements whose bytes depend on the numbers alone."""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import look
from .style import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_DPI = 160
# A little over true size (4/3), so that the text of a plot is as large as that of the page.
CSS_PIXELS_PER_POINT = 1.5


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
        title: What a screen reader says.
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
