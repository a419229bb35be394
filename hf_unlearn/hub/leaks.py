"""Nothing that is published may say what was to be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"\w+", re.UNICODE)
_LONGEST = 13
_SHORTEST = 4


class ForgetText:
    """Finds forget text in documents: 13 words in a row, or a whole shorter row or answer of at least four words.

    Case, punctuation and line breaks do not matter. Answers of one to three words (a year, a name) are found only
    together with their prompt: alone they would be found in any table of numbers.

    Args:
        rows: Prompt and answer of each forget row.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        self._runs: dict[int, dict[tuple[str, ...], int]] = {}
        for number, (prompt, answer) in enumerate(rows):
            for text in (answer, f"{prompt} {answer}"):
                self._add(_words(text), number)

    def _add(self, words: list[str], number: int) -> None:
        if len(words) < _SHORTEST:
            return
        length = min(len(words), _LONGEST)
        runs = self._runs.setdefault(length, {})
        for start in range(len(words) - length + 1):
            runs.setdefault(tuple(words[start : start + length]), number)

    def find(self, document: str) -> int | None:
        """Number (from 0) of a forget row that stands in a document, or ``None``.

        Args:
            document: Any text.
        """
        words = _words(document)
        for length, runs in self._runs.items():
            for start in range(len(words) - length + 1):
                number = runs.get(tuple(words[start : start + length]))
                if number is not None:
                    return number
        return None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
