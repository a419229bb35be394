"""``hf-unlearn report``: the page of a report, made anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import EnvironmentFailure, RequestError, printable
from .command import Command


def _add_arguments(command: argparse.ArgumentParser) -> None:
    text = "a run's output folder, a published folder, an id on the Hub, or an unlearning_report.json"
    command.add_argument("where", metavar="FOLDER_OR_REPO", help=text)
    command.add_argument("--revision", help="branch, tag or commit on the Hub")
    text = "the page (default: report.html in a run's folder, otherwise NAME-report.html in the current folder)"
    command.add_argument("--output", metavar="PATH", type=Path, help=text)
    command.add_argument("--open", action="store_true", help="show the page in the browser")


def _report(arguments: argparse.Namespace) -> int:
    from ..hub.report_source import find_report
    from ..reporting.html import write_html
    from ..reporting.results import Results

    if Path(arguments.where).suffix in (".yaml", ".yml"):
        raise RequestError(
            f"{arguments.where} is a recipe, and a page is made of a report: name the folder of its run (runs/NAME)"
        )
    if arguments.output is not None and not arguments.output.parent.is_dir():
        raise RequestError(f"--output {arguments.output}: there is no folder {arguments.output.parent}: make it first")
    found = find_report(arguments.where, arguments.revision)
    path = arguments.output or found.page
    try:
        write_html(found.document, path)
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be written: {error.strerror or error}") from error
    shown = Results(found.document)
    print(printable(f"{path}: the page of {shown.name}, verdict {shown.status}"))
    if arguments.open:
        _show(path)
    return 0


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        print(printable(f"there is no browser here: open {page} yourself"))


COMMANDS = (Command("report", "make the page of a run or a published model anew", _add_arguments, _report),)
