"""Answers of other rows as wrong answers: they have the right form, and any retain set provides them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from ...errors import RequestError
from . import ALTERNATES
from .base import AlternateSource, Given, same_answer, shaped_like


@ALTERNATES.register(
    "other-answers",
    summary="Answers of random retain rows: wrong here, but in the form of an answer.",
    defaults={"count": 5},
    needs=("retain",),
)
@dataclass(frozen=True)
class OtherAnswers(AlternateSource):
    """Answers to other prompts, taken from the retain set only: no forget answer is ever taught.

    Args:
        count: How many for each row; every epoch draws one of them.
    """

    count: int = 5

    needs_retain: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RequestError(f"alternates: other-answers.count is {self.count}; it must be at least 1")

    def answers(self, given: Given) -> list[tuple[str, ...]]:
        """Up to ``count`` distinct answers for each row."""
        texts = list(dict.fromkeys(row.answer.strip() for row in given.retain if row.prompt))
        found = []
        for row in given.forget:
            draw = random.Random(f"other-answers-{given.seed}-{row.id}")
            # One more than needed, in case the row's own answer is among them.
            sample = draw.sample(texts, min(len(texts), self.count + 1))
            wrong = [text for text in sample if not same_answer(text, row.answer)][: self.count]
            if not wrong:
                raise RequestError(
                    f"alternates: no retain row has another answer than {row.origin or row.id}: give a retain set "
                    "with prompts and answers, or use refusals, options or generated"
                )
            found.append(tuple(shaped_like(row, text) for text in wrong))
        return found
