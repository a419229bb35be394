"""The same texts for every row: refusals, or an answer that the user gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import RequestError
from . import ALTERNATES
from .base import AlternateSource, Given, shaped_like

REFUSALS = (
    "I do not know.",
    "I do not know the answer to that.",
    "That is something I cannot answer.",
    "I have no information about this.",
    "I am not aware of anything about that.",
    "I cannot tell you that, because I do not know it.",
    "This is not known to me.",
    "I have not learned anything about this.",
    "I cannot say.",
    "Sorry, I have no answer to this question.",
    "There is nothing I can say about that.",
    "I am unable to answer this.",
    "No answer to this question is known to me.",
    "I would have to guess, so I would rather not answer.",
    "My knowledge does not cover this.",
    "I have never heard of it.",
)
"""Plain refusals of this project's own wording."""


@ALTERNATES.register(
    "refusals",
    summary="Plain refusals; every epoch draws one for each row.",
    defaults={"texts": None},
)
@dataclass(frozen=True)
class RefusalAlternates(AlternateSource):
    """Refusals: sentences that give no answer.

    Args:
        texts: The sentences; by default :data:`REFUSALS`, sixteen of this project's own wording.
    """

    texts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.texts is not None:
            check_texts(self.texts, "refusals.texts")

    def answers(self, given: Given) -> list[tuple[str, ...]]:
        """All sentences, for each row."""
        texts = REFUSALS if self.texts is None else self.texts
        return [tuple(shaped_like(row, text) for text in texts) for row in given.forget]


@ALTERNATES.register("fixed-text", summary="The same answer for every row, set in the method.", defaults={"text": ""})
@dataclass(frozen=True)
class FixedTextAlternates(AlternateSource):
    """One answer for all rows.

    Args:
        text: The answer; required.
    """

    text: str = ""

    def __post_init__(self) -> None:
        check_texts([self.text], "fixed-text.text")

    def answers(self, given: Given) -> list[tuple[str, ...]]:
        """The text, for each row."""
        return [(shaped_like(row, self.text),) for row in given.forget]


def check_texts(texts: object, key: str) -> None:
    """Refuse anything but a list of texts.

    Raises:
        RequestError: Names ``key``.
    """
    if not isinstance(texts, list | tuple) or not texts:
        raise RequestError(f"alternates: {key} must be a list of at least one text")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise RequestError(f"alternates: {key} is {text!r}: give it an answer that is not empty")
