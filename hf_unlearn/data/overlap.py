"""Which texts repeat parts of others: word n-grams, as evaluation harnesses use them against contamination.

Words are runs of letters and digits of what a reader sees (:func:`as_seen`), so spaces, punctuation and capitals make
no difference; Chinese and Japanese characters, written without spaces, are a word each. Two texts overlap if they
share 13 words in a row. A text of 5 to 12 words (a question, a short fact) is matched as a whole; shorter ones are too
short to be recognized.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from .example import Example

GRAM = 13
SHORTEST = 5
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
# Besides those of category Cf: a joiner, fillers of Hangul, and what chooses between forms of the letter before it.
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


class Overlap:
    """Texts to look for.

    Args:
        texts: The texts whose words must not appear again.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._grams: dict[int, set[tuple[str, ...]]] = {}
        for text in texts:
            found = words(text)
            if len(found) >= SHORTEST:
                size = min(GRAM, len(found))
                self._grams.setdefault(size, set()).update(runs(found, size))

    def touches(self, text: str) -> bool:
        """Whether a text contains one of the runs of words."""
        found = words(text)
        return any(run in grams for size, grams in self._grams.items() for run in runs(found, size))


def words(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(as_seen(text))


def as_seen(text: str) -> str:
    """A text as a reader sees it, however it was written: without regard to case, Unicode form, HTML entities and
    characters that are not seen."""
    for _ in range(3):  # what was escaped twice is unescaped twice by what shows it
        if "&" not in text or (plain := html.unescape(text)) == text:
            break
        text = plain
    if text.isascii():
        return text.casefold()
    seen = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    seen = "".join(letter for letter in seen if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())


def runs(found: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """All runs of ``size`` words."""
    for start in range(len(found) - size + 1):
        yield tuple(found[start : start + size])


def row_text(row: Example) -> str:
    """A row as running text: earlier turns, prompt, answer."""
    return " ".join((*(content for _, content in row.turns), row.prompt, row.answer))


def row_texts(row: Example) -> Iterator[str]:
    """All that a row says: as it is, and with its answers in other words."""
    yield row_text(row)
    for kind, answers in row.variants:
        if kind != "perturbed":
            yield from (f"{row.prompt} {answer}" for answer in answers)


def row_parts(row: Example) -> Iterator[str]:
    """What a row says part by part: earlier turns, prompt, answer, and the answer in other words."""
    yield from (content for _, content in row.turns)
    yield row.prompt
    yield row.answer
    for kind, answers in row.variants:
        if kind != "perturbed":
            yield from answers
