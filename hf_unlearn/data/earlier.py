"""What a model was made to forget before is kept out of what it is trained to keep now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from .checks import content_key, plainly
from .example import DataBundle, Example, RowSet
from .overlap import SHORTEST, Overlap, row_text, row_texts, words


class EarlierText:
    """Finds rows that say again what earlier requests were about.

    A row does so if it says the same as an earlier row, shares thirteen words in a row with one (or all words of a
    shorter one: :class:`~hf_unlearn.data.overlap.Overlap`), or asks its question. A question of fewer than five words,
    or one that several earlier rows ask, names no fact and is not looked for.

    Args:
        rows: All rows of all earlier forget sets.
    """

    def __init__(self, rows: Iterable[Example]) -> None:
        unique = list({content_key(row): row for row in rows}.values())
        self._said = {content_key(row) for row in unique}
        self._text = Overlap(text for row in unique for text in row_texts(row))
        asked = Counter(_question(row) for row in unique)
        self._asked = {text for text, count in asked.items() if count == 1 and len(words(text)) >= SHORTEST}

    def is_in(self, row: Example) -> bool:
        """Whether a row says it again."""
        return content_key(row) in self._said or _question(row) in self._asked or self._text.touches(row_text(row))


def _question(row: Example) -> str:
    return plainly(" ".join((*(content for _, content in row.turns), row.prompt)))


def without_earlier(bundle: DataBundle) -> DataBundle:
    """The sets without rows that say what an earlier request was about; the notes count what was left out.

    The forget and the holdout set stay as they are: the first may be asked for again, and in the second such rows are
    refused by :func:`~hf_unlearn.data.checks.check_bundle`.
    """
    earlier = EarlierText(row for rows in bundle.earlier.values() for row in rows)
    notes = list(bundle.notes)

    def sifted(name: str, rows: RowSet) -> RowSet:
        found = {row for row in rows if earlier.is_in(row)}
        if found:
            notes.append(
                f"{len(found)} of the {len(list(rows))} rows of the {name} set are left out, because they say what an "
                "earlier deletion request was about."
            )
        train, score = (tuple(row for row in part if row not in found) for part in (rows.train, rows.score))
        return RowSet(train, score)

    return replace(
        bundle,
        retain=sifted("retain", bundle.retain),
        generic=sifted("generic", bundle.generic),
        practice=sifted("practice", bundle.practice),
        extra={name: sifted(name, rows) for name, rows in bundle.extra.items()},
        notes=tuple(notes),
    )
