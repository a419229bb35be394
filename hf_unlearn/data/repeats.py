"""Rows that say the same: one fact, however often it is written down.

Copies are trained on as they are. Counted as facts of their own they would make every interval narrower than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .checks import content_key, plainly
from .example import Example


def share_facts(rows: Iterable[Example]) -> tuple[Example, ...]:
    """Rows in which every copy has the fact and the group of the first row that says the same.

    Two rows say the same if their conversation, prompt, answer and options agree without regard to case, white space
    and Unicode form; the order of options does not count.
    """
    first: dict[object, Example] = {}
    shared = []
    for row in rows:
        known = first.setdefault(_says(row), row)
        shared.append(row if known is row else replace(row, fact=known.fact, group=known.group))
    return tuple(shared)


def repeats(rows: Sequence[Example]) -> int:
    """How many rows say what an earlier one says."""
    return len(rows) - len({_says(row) for row in rows})


def _says(row: Example) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return content_key(row), tuple(sorted(map(plainly, row.choices)))
