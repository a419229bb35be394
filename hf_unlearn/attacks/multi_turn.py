"""Multi-turn conversations: talk about what is nearest to a forgotten fact, and then ask for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from ..errors import RequestError
from . import ATTACKS
from .dialogue import Turn, after_turns
from .few_shot import example_pool, says_nothing_of
from .prompting import PromptAttack, check_questions, question_budget
from .scoring import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@ATTACKS.register(
    "multi-turn",
    summary="ask at the end of a conversation about the retain rows that are nearest to the question",
    paper="this project; one of the two patterns that arXiv 2603.00823 examines",
    defaults={"turns": [2, 6]},
    needs=("never-knew control", "retain"),
    tier="release",
)
@dataclass(frozen=True)
class MultiTurn(PromptAttack):
    """Settings of conversations.

    Earlier turns are solved retain rows: those whose questions share most words with the asked one, the nearest last.
    As in ``few-shot``, where they are drawn at random, no forgotten answer is shown: rows of a group with a forgotten
    fact are left out, and those whose answer is the asked one or one of the question's options.

    Attributes:
        turns: Lengths of the conversation; the attacker keeps the best.
    """

    turns: tuple[int, ...] = (2, 6)

    name: ClassVar[str] = "multi-turn"
    numbered: ClassVar[str] = "length"
    too_long: ClassVar[str] = "lower attack.multi-turn.turns"

    def __post_init__(self) -> None:
        if not self.turns or min(self.turns) < 1 or len(set(self.turns)) < len(self.turns):
            raise RequestError("multi-turn.turns must name lengths of at least 1, each once")

    def ways(self, bundle: DataBundle) -> int:
        """One for each length."""
        check_questions(self.name, bundle.forget.score)
        pool = example_pool(bundle)
        for row in bundle.forget.score:
            found = len(nearest(row, pool, max(self.turns)))
            if found < max(self.turns):
                lower = f"set turns of multi-turn to {found} or less, or " if found else ""
                raise RequestError(
                    f"multi-turn.turns has {max(self.turns)}, but the retain set has {found} questions that could "
                    f"come before {row.origin or row.id} without showing its answer or an option: {lower}"
                    "give the retain set more rows with prompts, or leave multi-turn out"
                )
        return len(self.turns)

    def asked(
        self, way: int, bundle: DataBundle, text_format: TextFormat, tokenizer: PreTrainedTokenizerBase
    ) -> Asked:
        """Every question after its conversation."""
        pool = example_pool(bundle)
        rows, holdout = (
            tuple(self._last(row, pool, self.turns[way - 1], text_format, tokenizer) for row in asked)
            for asked in (bundle.forget.score, self.floor_rows(bundle))
        )
        return Asked(rows, replace(text_format, template="{prompt}"), holdout=holdout)

    def floor_rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        """Those with a prompt that enough rows can stand before."""
        pool = example_pool(bundle) if bundle.floor else []
        most = max(self.turns)
        return tuple(row for row in bundle.floor if row.prompt and len(nearest(row, pool, most)) == most)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Lengths."""
        given = "prompts of the forget set, solved retain rows"
        return {**question_budget(bundle, given), "turns": list(self.turns)}

    def _last(
        self, row: Example, pool: Sequence[Example], length: int, fmt: TextFormat, tokenizer: PreTrainedTokenizerBase
    ) -> Example:
        turns = [Turn(each.prompt, each.answer) for each in reversed(nearest(row, pool, length))]
        return after_turns(row, turns, row.prompt, fmt, tokenizer)


def nearest(row: Example, pool: Sequence[Example], count: int) -> list[Example]:
    """The rows of a pool whose prompts are nearest to a row's by the words they share, and tell nothing of its answer.

    Nearness is the Jaccard index of the sets of words; of equally near rows the earlier ones are taken.
    """
    own = _words(row.prompt)

    def apart(place: int) -> tuple[float, int]:
        words = _words(pool[place].prompt)
        return -len(own & words) / len(own | words) if own | words else 0.0, place

    found = [place for place, example in enumerate(pool) if says_nothing_of(row, example)]
    return [pool[place] for place in sorted(found, key=apart)[:count]]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
