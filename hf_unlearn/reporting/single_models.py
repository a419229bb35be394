"""What ``evaluate``, ``compare`` and ``attack`` print about single models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..verification.intervals import MIN_GROUPS
from ..verification.recovery import RecoveryRow
from ..verification.typed_json import from_json
from .recovery import recovery_sentences
from .terminal import PIPE_WIDTH

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..evaluation.suites.compare import Comparison

_TITLES = {"model": "model", "target": "target", "never_knew": "never knew"}


def print_evaluation(result: Mapping[str, Any], folder: str, console: Console | None = None) -> None:
    """Print the scores of an evaluated model with their intervals.

    Args:
        result: What ``suite.json`` holds.
        folder: Where it is, for the reader.
        console: Where to print; standard output if left out.
    """
    page = _Page(console or make_console())
    page.line(f"{result['suite']['name']}: {result['model']['name']}", "bold")
    if result["suite"]["summary"]:
        page.line(result["suite"]["summary"], "dim")
    page.table(_scores_table(page, result))
    if result["aggregates"]:
        page.table(_aggregates_table(page, result["aggregates"]))
    for reason, names in _by_reason(result["not_computed"]).items():
        page.line(f"Not computed: {', '.join(names)}: {reason}", "yellow")
    if any(score["ci95"] is None for metrics in result["scores"].values() for score in metrics.values()):
        page.line(f"-: an interval needs at least {MIN_GROUPS} groups", "dim")
    page.line(_conditions(result), "dim")
    page.line(f"Records and summary: {folder}")


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print paired differences of two evaluated models."""
    page = _Page(console or make_console())
    first, second = comparison.first, comparison.second
    page.line(f"{first['suite']['name']}: B - A on the same rows", "bold")
    page.line(f"A  {first['model']['name']}")
    page.line(f"B  {second['model']['name']}")
    page.table(_differences_table(page, comparison))
    page.line("* the 95 % interval of the difference leaves out 0 (paired, groups resampled)", "dim")
    for note in comparison.notes:
        page.line(f"Note: {note}", "yellow")


def print_attacks(found: Mapping[str, Any], models: Sequence[str], place: str) -> None:
    """Print a line for each attack and metric.

    Args:
        found: What ``attacks.json`` holds.
        models: Names of the attacked models, in their order.
        place: Where the file is, for the reader.
    """
    rows = [["attack", "metric", "facts", *(f"{_TITLES[name]} before → after" for name in models), "recovered share"]]
    for attack in found["attacks"]:
        for row in attack["metrics"]:
            cells = [_before_and_after(row["before"].get(name), row["scores"].get(name)) for name in models]
            rows.append([attack["name"], row["metric"], str(row["facts"]), *cells, _recovered_share(row)])
    if not any("recovered_share" in row for attack in found["attacks"] for row in attack["metrics"]):
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        print(printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))
    steps = [from_json(RecoveryRow, row) for attack in found["attacks"] for row in attack.get("recovery", ())]
    if steps:
        print("\nSteps of retraining until half of the target's score is back:")
        for line in recovery_sentences(steps):
            print(printable(f"  {line}"))
    where = printable(str(place))
    print(f"\nAfter: the attacker's best setting, chosen per metric. All settings and budgets: {where}")


def make_console() -> Console:
    """Standard output, wide enough for the tables if it is a pipe."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(PIPE_WIDTH, console.width))


class _Page:
    """Prints text as it is: no markup, no control characters, nothing that the terminal cannot encode."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str, style: str = "") -> None:
        for line in self.text(text, style).wrap(self.console, max(20, self.console.width)):
            line.rstrip()
            self.console.print(line)

    def table(self, table: Table) -> None:
        self.console.print(table)

    def text(self, text: str, style: str = "") -> Text:
        from rich.text import Text

        clean = printable(text, keep="\n")
        if self.console.options.ascii_only:
            clean = clean.encode("ascii", "replace").decode("ascii")
        return Text(clean, style=style)

    def grid(self, first: str, *numbers: str) -> Table:
        """An empty table: names on the left, columns of numbers on the right."""
        from rich import box
        from rich.table import Table

        shape = box.ASCII if self.console.options.ascii_only else box.HORIZONTALS
        table = Table(box=shape, show_edge=False, padding=(0, 1))
        # Names may be folded on a narrow terminal; a number that is cut off would be another number.
        table.add_column(first, overflow="fold")
        for header in numbers:
            table.add_column(header, justify="right", no_wrap=True)
        return table


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return found


def _scores_table(page: _Page, result: Mapping[str, Any]) -> Table:
    table = page.grid("set and metric", "mean", "95 % interval", "n")
    for name, metrics in result["scores"].items():
        _heading(page, table, name)
        for metric, score in metrics.items():
            table.add_row(
                page.text(f"  {metric}"), _decimals(score["mean"]), _interval(score["ci95"]), str(score["n"])
            )
    return table


def _aggregates_table(page: _Page, aggregates: Mapping[str, Any]) -> Table:
    table = page.grid("over sets", "value", "95 % interval", "n")
    for name, found in aggregates.items():
        table.add_row(page.text(name), _number(found["value"]), _interval(found["ci95"]), str(found["n"]))
        for key, value in found["details"].items():
            shown = str(value) if isinstance(value, int) else _number(value)  # a count has no decimals
            table.add_row(page.text(f"  {key}", "dim"), page.text(shown, "dim"))
    return table


def _differences_table(page: _Page, comparison: Comparison) -> Table:
    table = page.grid("set and metric", "A", "B", "B - A", "95 % interval", "n")
    previous: str | None = None
    for found in comparison.differences:
        if found.set != previous:
            _heading(page, table, found.set or "over sets")
        previous = found.set
        show = _decimals if found.set else _number
        table.add_row(
            page.text(f"  {found.metric}"),
            show(found.first),
            show(found.second),
            f"{_decimals(found.difference, 4)}{'*' if found.clear else ' '}",
            _interval(found.ci95, 4),
            str(found.n),
        )
    return table


def _heading(page: _Page, table: Table, name: str) -> None:
    if table.row_count:
        table.add_section()
    table.add_row(page.text(name, "bold"))


def _conditions(result: Mapping[str, Any]) -> str:
    """What the reader must know to compare these numbers with others."""
    texts = {spec["format"] for spec in result["sets"].values()}
    said = {"chat": "chat template", "plain": "plain text"}
    parts = [f"n: facts; intervals resample groups; {result['dtype']}"]
    if len(texts) == 1:
        parts.append(said[texts.pop()])
    elif texts:
        named = ", ".join(f"{name} {said[spec['format']]}" for name, spec in result["sets"].items())
        parts.append(named)
    if result["limit"]:
        parts.append(f"first {result['limit']} rows of each set")
    repeated = {name: spec["repeated"] for name, spec in result["sets"].items() if spec["repeated"]}
    parts += [f"{count} repeated rows of {name} count once" for name, count in repeated.items()]
    if result["reference"]:
        parts.append(f"reference: {result['reference']['name']} ({result['reference']['kind']})")
    return "; ".join(parts)


def _decimals(value: float, places: int = 3) -> str:
    """A score: three decimals, which is finer than any interval over a few hundred rows."""
    text = f"{value:.{places}f}" if abs(value) < 1000 else f"{value:.4g}"
    return text.lstrip("-") if not float(text) else text


def _number(value: float) -> str:
    """Also p-values, of which the power of ten matters."""
    return f"{value:.1e}" if value and abs(value) < 5e-4 else _decimals(value)


def _interval(ends: Any, places: int = 3) -> str:
    return "-" if ends is None else f"{_decimals(ends[0], places)} to {_decimals(ends[1], places)}"


def _before_and_after(before: float | None, after: float | None) -> str:
    if after is None:
        return "-"
    return f"{after:.3f}" if before is None else f"{before:.3f} → {after:.3f}"


def _recovered_share(row: Mapping[str, Any]) -> str:
    value, interval = row.get("recovered_share"), row.get("ci95")
    if value is None:
        return "-" if "recovered_share" not in row else f"undefined: {row['undefined']}"
    return f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")
