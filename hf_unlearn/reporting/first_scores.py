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
    table = Table(box=box.ASCII if ascii_only else box.HORIZONTALS, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("model", overflow="fold")
    for transform in transforms:
        table.add_column("as is" if transform == "identity" else transform, justify="right", overflow="fold")
    for scored in models:
        cells = [" / ".join(show(scored.means.get((transform, name)), 2) for name in SETS) for transform in transforms]
        shown = [cell.encode("ascii", "replace").decode() if ascii_only else cell for cell in cells]
        table.add_row(Text(printable(scored.model)), *map(Text, shown))
    console.print(Text(title, style="bold"))
    console.print(table)
