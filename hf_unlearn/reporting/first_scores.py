"""The first numbers of a run in a terminal, before its attacks: means alone, nothing is judged yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import printable
from .words import metric_label, show

if TYPE_CHECKING:
    from rich.console import Console

SETS = ("forget", "retain")


@dataclass(frozen=True)
class FirstScores:
    """The means of one model.

    Attributes:
        model: Its name.
        means: By transform and set (``forget``, ``retain``).
    """

    model: str
    means: Mapping[tuple[str, str], float]


def print_first_scores(
    models: Sequence[FirstScores], transforms: Sequence[str], metric: str, console: Console
) -> None:
    """Print models against formats: forget and retain score.

    Args:
        models: The models, in the order of the table.
        transforms: ``identity`` and the formats.
        metric: What was measured.
        console: Where to print.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    ascii_only = console.options.ascii_only
    title = f"So far: forget / retain {metric_label(metric)}, before attacks and verdict"
    names = [Text(printable(scored.model)) for scored in models]
    columns = [_column(transform, models, ascii_only=ascii_only) for transform in transforms]
    console.print(Text(title, style="bold"))
    room = console.width - max([len("model"), *(name.cell_len for name in names)])
    for number, part in enumerate(_beside_each_other(columns, room)):
        if number:
            console.print()
        table = Table(box=box.ASCII if ascii_only else box.HORIZONTALS, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("model", overflow="fold")
        for head, *_ in part:
            table.add_column(head, justify="right", overflow="fold")
        for row, name in enumerate(names, start=1):
            table.add_row(name, *(Text(column[row]) for column in part))
        console.print(table)


def _column(transform: str, models: Sequence[FirstScores], *, ascii_only: bool) -> list[str]:
    """What stands below each other: the head, and both means of every model."""
    cells = [" / ".join(show(scored.means.get((transform, name)), 2) for name in SETS) for scored in models]
    shown = [cell.encode("ascii", "replace").decode() if ascii_only else cell for cell in cells]
    return ["as is" if transform == "identity" else transform, *shown]


_BETWEEN = 3
"""The most that a border and its padding take beside a column."""


def _beside_each_other(columns: Sequence[list[str]], room: int) -> list[list[list[str]]]:
    """Columns for as many tables as are needed for no name or number to be broken: at least one for each."""
    parts: list[list[list[str]]] = [[]]
    left = room
    for column in columns:
        width = max(map(len, column)) + _BETWEEN
        if parts[-1] and width > left:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= width
    return parts
