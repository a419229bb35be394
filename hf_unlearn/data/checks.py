"""Checks of a whole :class:`DataBundle` that no single file can fail on its own."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from ..errors import RequestError
from .example import DataBundle, Example, RowSet
from .overlap import Overlap, row_text, row_texts

# Pairs of sets that contradict each other when they share a row: a row cannot be both forgotten and kept, and neither
# kind can be in a set that no model has ever seen; ordinary text is trained to be kept.
_APART = (("forget", "retain"), ("forget", "holdout"), ("retain", "holdout"), ("forget", "generic"))


def check_bundle(bundle: DataBundle) -> None:
    """Refuse data on which a run would mean nothing.

    Args:
        bundle: All sets of a run.

    Raises:
        RequestError: The forget or retain set is empty, a row is in two sets that must be disjoint (compared without
            regard to case, spaces and Unicode form; the message names both lines), or two rows have the same id.
    """
    for name in ("forget", "retain"):
        rows: RowSet = getattr(bundle, name)
        for use, part in (("train on", rows.train), ("score", rows.score)):
            if not part:
                raise RequestError(f"the {name} set has no rows to {use}: give data.{name} at least one row")
    for first, second in _APART:
        _check_apart(first, getattr(bundle, first), second, getattr(bundle, second))
    for name, asked in bundle.earlier.items():
        _check_apart(f"earlier {name}", asked, "holdout", bundle.holdout)
    _check_ids(bundle)


def holding_forgotten(bundle: DataBundle) -> int:
    """How many generic rows hold the text of a forget row, or thirteen words in a row of one (:class:`Overlap`)."""
    forgotten = Overlap(text for row in _all(bundle.forget) for text in row_texts(row))
    return sum(forgotten.touches(row_text(row)) for row in dict.fromkeys(_all(bundle.generic)))


def _check_apart(first: str, first_rows: RowSet, second: str, second_rows: RowSet) -> None:
    check_rows_apart(first, _all(first_rows), second, _all(second_rows))


def check_rows_apart(first: str, first_rows: Iterable[Example], second: str, second_rows: Iterable[Example]) -> None:
    """Refuse two sets that share a row, compared without regard to case, spaces and Unicode form.

    Args:
        first: Name of a set.
        first_rows: Its rows.
        second: Name of the other; prompts of ``generic`` rows are no part of their own.
        second_rows: Its rows.

    Raises:
        RequestError: Names the first such row in both sets.
    """
    # Ordinary text has no prompts: a fact is the same with and without the border between question and answer.
    said = _as_one_text if second == "generic" else content_key
    seen = {said(row): row for row in first_rows}
    both = {said(row): row for row in second_rows if said(row) in seen}
    if both:
        key, row = next(iter(both.items()))
        raise RequestError(
            f"{len(both)} row(s) are in both the {first} and the {second} set, the first at {seen[key].origin} and "
            f"{row.origin}: remove them from one of the two"
        )


def content_key(row: Example) -> tuple[str, ...]:
    """What a row says, without regard to case, spaces and Unicode form."""
    parts = (*(content for _, content in row.turns), row.prompt, row.answer)
    return tuple(map(plainly, parts))


def _as_one_text(row: Example) -> tuple[str, ...]:
    return (plainly(row_text(row)),)


def plainly(text: str) -> str:
    """A text without regard to case, spaces and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _check_ids(bundle: DataBundle) -> None:
    sets = (bundle.forget, bundle.retain, bundle.holdout, bundle.generic, bundle.practice, *bundle.extra.values())
    sets += tuple(bundle.earlier.values())
    seen: dict[str, tuple[int, Example]] = {}
    for number, rows in enumerate(sets):
        for row in _all(rows):
            # The same row may be trained on and scored, but only within one set.
            if row.id in seen and seen[row.id] != (number, row):
                raise RequestError(
                    f"two rows have the id {row.id!r}, at {seen[row.id][1].origin} and {row.origin}: ids must be "
                    "unique"
                )
            seen[row.id] = (number, row)


def _all(rows: RowSet) -> Iterable[Example]:
    return (*rows.train, *rows.score)
