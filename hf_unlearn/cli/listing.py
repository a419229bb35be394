"""What is available, read from the registries: for ``hf-unlearn list`` and for the tables in the docs."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from ..errors import EnvironmentFailure, RequestError
from .command import Command


def entries_of(what: str) -> list[dict[str, Any]]:
    """Entries of one kind as plain data, each with at least ``name``, ``summary``, ``paper`` and ``needs``."""
    if what not in _LISTS:
        raise RequestError(f"there is no list of {what!r}: use one of {', '.join(_LISTS)}")
    return _LISTS[what]()


def format_table(entries: list[dict[str, Any]]) -> str:
    """Entries as lines for a terminal: short columns come first, and what is not installed is listed below."""
    if not entries:
        return "(none)"
    wanted = ("name", "kind", "tier", "version", "cpu", "installed", "needs", "summary", "paper")
    columns = [key for key in wanted if any(entry.get(key) not in (None, "", []) for entry in entries)]
    rows = [[_cell(entry.get(key, "")) for key in columns] for entry in entries]
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [columns, *rows]]
    missing = [str(entry["status"]) for entry in entries if entry.get("installed") is False]
    return "\n".join([*(line.rstrip() for line in lines), *([""] if missing else []), *missing])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _losses() -> list[dict[str, Any]]:
    from ..losses import FORGET_LOSSES, RETAIN_LOSSES

    forget = [{**entry, "kind": "forget"} for entry in FORGET_LOSSES.described().values()]
    return forget + [{**entry, "kind": "retain"} for entry in RETAIN_LOSSES.described().values()]


def _alternates() -> list[dict[str, Any]]:
    from ..data.alternates import ALTERNATES

    return list(ALTERNATES.described().values())


def _controls() -> list[dict[str, Any]]:
    from ..controls import CONTROLS

    return list(CONTROLS.described().values())


def _robust() -> list[dict[str, Any]]:
    from ..robust import ROBUST

    return list(ROBUST.described().values())


def _formats() -> list[dict[str, Any]]:
    from ..quantization import ALIASES, FORMATS
    from ..quantization.libraries import check_libraries

    found = []
    for name, entry in FORMATS.described().items():
        needed = {fact: entry.pop(fact) for fact in ("package", "versions", "companions", "extra")}
        try:
            check_libraries(name, **needed)
            status = "installed"
        except EnvironmentFailure as error:
            status = str(error)
        # transformers is not an extra: plain formats need nothing.
        extra = "" if needed["package"] == "transformers" or not entry["needs"] else needed["extra"]
        aliases = [short for short, full in ALIASES.items() if full == name]
        found.append(
            {**entry, "aliases": aliases, "extra": extra, "installed": status == "installed", "status": status}
        )
    return found


def _attacks() -> list[dict[str, Any]]:
    from ..attacks import ATTACKS

    return list(ATTACKS.described().values())


def _metrics() -> list[dict[str, Any]]:
    from ..evaluation.aggregates import AGGREGATES
    from ..evaluation.metrics import METRICS

    rows = [{**entry, "kind": "row"} for entry in METRICS.described().values()]
    return rows + [{**entry, "kind": "aggregate"} for entry in AGGREGATES.described().values()]


def _aggregates() -> list[dict[str, Any]]:
    return [entry for entry in _metrics() if entry["kind"] == "aggregate"]


def _recipes() -> list[dict[str, Any]]:
    from ..recipe import builtin_recipes
    from ..runtime.strict_yaml import read_yaml

    found = []
    for name, path in builtin_recipes().items():
        tree = read_yaml(path).plain()
        summary = str(tree.get("summary", ""))
        found.append({"name": name, "summary": summary, "paper": "", "needs": [], "path": path.name})
    return found


def _suites() -> list[dict[str, Any]]:
    from ..evaluation.suites import builtin_suites, load_suite

    found = []
    for name, path in builtin_suites().items():
        suite = load_suite(name)
        needs = ["lm-eval"] if suite.harness else []
        entry = {"name": name, "summary": suite.summary, "paper": suite.paper, "needs": needs, "path": path.name}
        found.append(entry | {"sets": list(suite.set), "aggregates": list(suite.aggregates)})
    return found


_LISTS = {
    "losses": _losses,
    "alternates": _alternates,
    "robust": _robust,
    "controls": _controls,
    "formats": _formats,
    "attacks": _attacks,
    "metrics": _metrics,
    "aggregates": _aggregates,
    "recipes": _recipes,
    "suites": _suites,
}
LISTS = tuple(_LISTS)
SCHEMA = "schema"


def _add_arguments(command: argparse.ArgumentParser) -> None:
    text = "which list (default: how many there are of each); schema: the JSON schema of recipes, for editors"
    command.add_argument("what", nargs="?", choices=(*LISTS, SCHEMA), help=text)
    command.add_argument("--json", action="store_true", help="print an array of objects")


def _list(arguments: argparse.Namespace) -> int:
    if arguments.what is None:
        print(_overview(arguments.json))
        return 0
    if arguments.what == SCHEMA:
        from ..recipe.schema import recipe_schema

        print(json.dumps(recipe_schema(), indent=1))
        return 0
    entries = entries_of(arguments.what)
    print(json.dumps(entries, indent=1) if arguments.json else format_table(entries))
    return 0


def _overview(as_json: bool) -> str:
    """How many entries each list has, and their names."""
    names = {what: [str(entry["name"]) for entry in entries_of(what)] for what in LISTS}
    if as_json:
        return json.dumps(names, indent=1)
    wide = max(map(len, LISTS))
    lines = [
        textwrap.fill(
            ", ".join(found),
            width=110,
            initial_indent=f"{what.ljust(wide)}  {len(found):3d}  ",
            subsequent_indent=" " * (wide + 7),
            break_on_hyphens=False,
        )
        for what, found in names.items()
    ]
    return "\n".join([*lines, "", "`hf-unlearn list WHAT` says what each is."])


COMMANDS = (Command("list", "list what is available", _add_arguments, _list, only_prints=True),)
