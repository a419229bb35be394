"""The command ``requests``: the ledger of deletion requests of a released model, or of a recipe."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import printable
from .command import Command

if TYPE_CHECKING:
    from ..reporting.earlier import LedgerEntry


def _add_arguments(command: argparse.ArgumentParser) -> None:
    text = "a recipe, the folder of a run, a published folder, a report, or a model on the Hub"
    command.add_argument("where", metavar="RECIPE_OR_FOLDER_OR_REPO", help=text)
    command.add_argument("--revision", help="branch, tag or commit on the Hub")
    command.add_argument("--json", action="store_true", help="print an array of objects")


def _requests(arguments: argparse.Namespace) -> int:
    """Exit code 1 if a request is not fulfilled by the model at hand."""
    from ..recipe import builtin_recipes
    from ..reporting.earlier import ledger_table

    where: str = arguments.where
    of_recipe = Path(where).suffix in (".yaml", ".yml") or (where in builtin_recipes() and not Path(where).exists())
    entries = recipe_ledger(where) if of_recipe else report_ledger(where, arguments.revision)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1))
    elif entries:
        print(printable(ledger_table(entries), keep="\n"))
        for entry in entries:
            for reason in entry.reasons if entry.now not in (None, "passed") else ():
                print(printable(f"{entry.id}: {reason}"))
    else:
        print("the recipe names no earlier request (data.earlier)")
    return 0 if all(entry.now in (None, "passed") for entry in entries) else 1


def report_ledger(where: str, revision: str | None = None) -> list[LedgerEntry]:
    """The earlier requests of a report, and last the one that it was written for.

    Raises:
        RequestError: There is no report, or it was changed.
        EnvironmentFailure: The Hub cannot be reached.
    """
    from ..hub.verified import load_report
    from ..reporting.earlier import earlier_entries, own_entry
    from ..verification.report import Report

    report = Report.from_json(load_report(where, revision))
    return [*earlier_entries(report), own_entry(report)]


def recipe_ledger(path: str) -> list[LedgerEntry]:
    """The earlier requests that a recipe names, with what their own reports say of them.

    Raises:
        RequestError: The recipe is wrong, or a report cannot be read.
        EnvironmentFailure: The Hub cannot be reached.
    """
    from ..recipe import load_recipe
    from ..recipe.checks import located
    from ..reporting.earlier import LedgerEntry, own_entry
    from ..stages.earlier_rows import report_of
    from ..verification.report import Report

    entries = []
    for spec in load_recipe(path).data.earlier:
        with located(spec.key):
            report = report_of(spec)
        if report is None:
            entries.append(LedgerEntry(spec.id, spec.date, None, None, None, ""))
            continue
        own = own_entry(Report.from_json(report))
        entries.append(dataclasses.replace(own, id=spec.id, date=spec.date or own.date, now=None))
    return entries


COMMANDS = (
    Command(
        "requests", "the ledger of deletion requests of a released model", _add_arguments, _requests, only_prints=True
    ),
)
