"""What a source of alternates is given, and how its answers come to look like the row's own."""

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
    """A wish for answers that a model writes.

    Attributes:
        count: Samples of each prompt.
        temperature: Divides the logits.
        max_new_tokens: Greatest length of an answer.
        stop: Strings at which an answer ends.
        seed: With the row's id and the number of the sample it decides every draw.
    """

    count: int
    temperature: float
    max_new_tokens: int
    stop: tuple[str, ...]
    seed: int


class Writer(Protocol):
    """Writes answers with the target model, before it is trained."""

    def __call__(self, rows: Sequence[Example], wish: SampledAnswers) -> list[list[str]]:
        """``wish.count`` texts for each row's prompt, as they would follow it."""


@dataclass(frozen=True)
class Given:
    """What alternates can be made from.

    Attributes:
        forget: The forget rows.
        retain: The retain rows; empty where the method reads none.
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
        """Other answers to each forget row, at least one; of several, each epoch draws one.

        Raises:
            RequestError: A row has none; the message names it and says what gives one.
        """


def check_prompts(rows: Sequence[Example]) -> None:
    """Refuse rows without a prompt: there is nothing that another answer could answer.

    Raises:
        RequestError: Names the first of them.
    """
    row = next((row for row in rows if not row.prompt), None)
    if row is not None:
        raise RequestError(
            f"{row.origin or row.id} has no prompt, so that no other answer can follow it: give the forget set as "
            "prompt and answer, or use a loss without alternates"
        )


def shaped_like(row: Example, text: str) -> str:
    """``text`` with the space in front that the row's own answer has, and no other around it."""
    space = row.answer[: len(row.answer) - len(row.answer.lstrip())]
    return space + text.strip()


def same_answer(first: str, second: str) -> bool:
    """Whether two answers say the same but for case, outer space and a final stop."""
    return _plain(first) == _plain(second)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")


def drawn(seed: int, key: str, count: int) -> int:
    """A number below ``count`` that depends on seed and key alone."""
    digest = hashlib.sha256(f"alternate:{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % count
