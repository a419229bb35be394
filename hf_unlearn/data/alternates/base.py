"""What a source of alternates is given, and how its answers are made to look like the row's own."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ...errors import RequestError
from ..example import Example


@dataclass(frozen=True)
class SampledAnswers:
    """A request for answers that a model writes.

    Attributes:
        count: Samples of each prompt.
        temperature: Divides the logits.
        max_new_tokens: Maximum length of an answer.
        stop: Strings at which an answer ends.
        seed: Together with the row's id and the sample's number, it decides every draw.
    """

    count: int
    temperature: float
    max_new_tokens: int
    stop: tuple[str, ...]
    seed: int


class Writer(Protocol):
    """Writes answers with the target model, before it is trained."""

    def __call__(self, rows: Sequence[Example], wish: SampledAnswers) -> list[list[str]]:
        """``wish.count`` continuations of each row's prompt."""


@dataclass(frozen=True)
class Given:
    """What alternates can be made from.

    Attributes:
        forget: The forget rows.
        retain: The retain rows; empty if the method reads none.
        seed: Seed of everything that is drawn.
        write: Writes answers with the target model; ``None`` while no model is loaded.
    """

    forget: Sequence[Example]
    retain: Sequence[Example]
    seed: int
    write: Writer | None = None


class AlternateSource(ABC):
    """Gives every forget row one or more other answers.

    Attributes:
        needs_model: Whether the target model has to write them.
        needs_retain: Whether they come from retain rows.
    """

    needs_model: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = False

    @abstractmethod
    def answers(self, given: Given) -> list[tuple[str, ...]]:
        """Other answers to each forget row, at least one. If there are several, each epoch draws one.

        Raises:
            RequestError: A row has none; the message names it and says how to provide one.
        """


def check_prompts(rows: Sequence[Example]) -> None:
    """Refuse rows without a prompt: an alternate needs a question to answer.

    Raises:
        RequestError: Names the first of them.
    """
    row = next((row for row in rows if not row.prompt), None)
    if row is not None:
        raise RequestError(
            f"{row.origin or row.id} has no prompt for another answer to follow: give the forget set as "
            "prompt and answer, or use a loss without alternates"
        )


def shaped_like(row: Example, text: str) -> str:
    """``text`` with the same leading space as the row's own answer, and otherwise stripped."""
    space = row.answer[: len(row.answer) - len(row.answer.lstrip())]
    return space + text.strip()


def same_answer(first: str, second: str) -> bool:
    """Whether two answers are the same apart from case, surrounding space and a final full stop."""
    return _plain(first) == _plain(second)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")


def drawn(seed: int, key: str, count: int) -> int:
    """A number below ``count`` that depends on seed and key alone."""
    digest = hashlib.sha256(f"alternate:{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % count
