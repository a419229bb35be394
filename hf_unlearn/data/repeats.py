"""Rows that say the same: one fact, however often it is written down.

Copies are trained on as they are. Counted as facts of their own they would make every interval narrower than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .checks import content_key, plainly
from .example import Example


def share_facts(rows: Iterable[Example]) -> tuple[Example, ...]:
    """Rows in which every copy has the fact, the group and the fold of the first row that says the same.

    Two rows say the same if their conversation, prompt, answer and options agree without regard to case, white space
    and Unicode form; the order of options does not count.
    """
    first: dict[object, Example] = {}
    shared = []
    for row in rows:
        known = first.setdefault(_says(row), row)
        shared.append(row if known is row else replace(row, fact=known.fact, group=known.group, fold=known.fold))
    return tuple(shared)


def as_shared(rows: Iterable[Example], asked: Iterable[Example], shared: Iterable[Example]) -> tuple[Example, ...]:
    """Rows that are trained on with the facts that :func:`share_facts` gave the rows that ask for them.

    Args:
        rows: What is trained on.
        asked: The rows that ask for the same facts, as they were.
        shared: The same, as they are now.
    """
    now = {before.fact: after for before, after in zip(asked, shared, strict=True)}
    return tuple(
        replace(row, fact=known.fact, group=known.group, fold=known.fold) if (known := now.get(row.fact)) else row
        for row in rows
    )


def repeats(rows: Sequence[Example]) -> int:
    """How many rows say what an earlier one says."""
    return len(rows) - len({_says(row) for row in rows})


def _says(row: Example) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return content_key(row), tuple(sorted(map(plainly, row.choices)))
