"""Multiple choice for rows without wrong answers: the answers of other rows of the set."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ..errors import RequestError
from .columns import option_position
from .example import Example


def with_drawn_options(rows: Sequence[Example], wrong: int) -> tuple[Example, ...]:
    """Rows with options, drawn by each row's own text: a file in another order gives the same ones.

    They are answers to other questions of the row's group, so a name in both question and answer does not
    give the right one away; of the whole set if the group has too few.

    Args:
        rows: Of one set, with prompts.
        wrong: How many wrong options each row gets, at least 1.

    Raises:
        RequestError: A row has no prompt, has options already, or the set has too few different answers.
    """
    by_group: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        by_group[row.group].add(row.answer)
    everything = {row.answer for row in rows}
    return tuple(_with_options(row, by_group[row.group], everything, wrong) for row in rows)


def _with_options(row: Example, near: set[str], everything: set[str], wrong: int) -> Example:
    if row.choices:
        raise RequestError(f"{row.origin} has options of its own: remove draw_choices")
    if not row.prompt:
        raise RequestError(
            f"{row.origin} is plain text, which has no question to draw options for: remove draw_choices"
        )
    if len(everything) == 1:
        raise RequestError(
            "draw_choices takes wrong options from the answers of other rows, and all rows of the set have one "
            "answer: remove draw_choices, or add rows with other answers"
        )
    if len(everything) <= wrong:
        raise RequestError(
            f"draw_choices is {wrong}, but the set has only {len(everything)} different answers: set it to "
            f"{len(everything) - 1} or less"
        )
    others = (near if len(near) > wrong else everything) - {row.answer}
    drawn = sorted(others, key=lambda answer: _rank(row, answer))[:wrong]
    drawn.insert(option_position(row.prompt, row.answer, wrong + 1), row.answer)
    return replace(row, choices=tuple(drawn))


def _rank(row: Example, answer: str) -> bytes:
    return hashlib.sha256("\x1f".join((row.prompt, row.answer, answer)).encode()).digest()
