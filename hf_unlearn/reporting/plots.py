"""All plots of a report as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..verification.report_rows import Report
from .files import save
from .plot_explanation import explanation_figure, layers_figure
from .plot_forget import forget_figure
from .plot_retain import retain_figure
from .plot_shares import recovered_figure
from .results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_plots(report: Report, folder: Path | str, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Write all plots that the report has numbers for.

    Args:
        report: The report dictionary.
        folder: Where to; made if it is not there.
        formats: ``svg``, ``png`` or both.

    Returns:
        The files: ``forget_score``, ``recovered_share``, ``retain_score``, ``explanation`` and ``explanation_layers``,
        in each format.
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
