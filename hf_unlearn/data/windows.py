"""Long plain texts, split into pieces that fit into a row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import replace

from ..errors import RequestError
from .example import Example


def in_windows(rows: Iterable[Example], characters: int) -> tuple[Example, ...]:
    """Cut texts into consecutive pieces at white space; shorter ones stay as they are.

    Args:
        rows: Rows without a prompt.
        characters: Maximum length of a piece. A longer word is cut.

    Returns:
        The pieces in order, each a fact of its own, those of one text in one group. White space between two pieces
        is in neither.

    Raises:
        RequestError: A row has a prompt: its answer would no longer belong to it.
    """
    pieces = []
    for row in rows:
        if row.prompt or row.turns:
            raise RequestError(f"{row.origin}: window cuts plain text, and this row has a prompt: remove window")
        texts = _cut(row.answer, characters)
        for number, text in enumerate(texts):
            name = f"{row.id}-{number}" if len(texts) > 1 else row.id
            fact = name if row.fact == row.id or len(texts) > 1 else row.fact
            pieces.append(replace(row, id=name, answer=text, fact=fact, group=row.group))
    return tuple(pieces)


def _cut(text: str, characters: int) -> list[str]:
    if len(text) <= characters:
        return [text]
    # Line breaks are part of a text: only white space at a cut is lost.
    wrapper = textwrap.TextWrapper(
        characters, replace_whitespace=False, expand_tabs=False, drop_whitespace=True, break_on_hyphens=False
    )
    return [piece for piece in wrapper.wrap(text) if piece.strip()]
