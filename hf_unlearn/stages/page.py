"""The report as people read it: a page next to the run's folders, and tables in the terminal."""

from __future__ import annotations

from ..reporting.html import page_plots, write_html
from ..reporting.terminal import print_results
from .run import Run


def page_stage(run: Run) -> None:
    """Rewrite ``report.html`` and print what it says."""
    assert run.verified is not None  # the verify stage comes before
    page = run.context.output_dir / "report.html"
    with run.context.progress.stage("verify"):
        run.plots = page_plots(run.verified.report)
        write_html(run.verified.report, page, run.plots)
    print_results(run.verified.report, run.context.progress.console, report_path=page)
