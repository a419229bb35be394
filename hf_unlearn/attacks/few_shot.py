"""Few-shot prompts: solved examples of what was kept come before the question."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat, prompt_text, uses_chat
from ..data.example import DataBundle, Example
from ..errors import RequestError
from . import ATTACKS
from .prompting import PromptAttack, check_questions, question_budget
from .scoring import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BREAK = "\n\n"


@ATTACKS.register(
    "few-shot",
    summary="put solved examples of retain rows before every question",
    paper="arXiv 2005.14165 (in-context examples); as an attack arXiv 2402.16835",
    defaults={"shots": 5, "draws": 2},
    needs=("never-knew control", "retain"),
    tier="release",
)
@dataclass(frozen=True)
class FewShot(PromptAttack):
    """Settings of few-shot prompts.

    No forgotten answer is ever shown: examples are retain rows of groups that hold no forgotten fact, and none whose
    answer is the asked answer or one of the question's options. Where all rows have the same options (letters, yes
    and no) their answers are shown, since they tell nothing.

    Attributes:
        shots: Solved examples before each question.
        draws: How many draws of examples are tried; the attacker keeps the best.
        seed: Seed of the draws.
    """

    shots: int = 5
    draws: int = 2
    seed: int = 0

    name: ClassVar[str] = "few-shot"
    numbered: ClassVar[str] = "draw"
    too_long: ClassVar[str] = "lower the shots of few-shot"

    def __post_init__(self) -> None:
        for key in ("shots", "draws"):
            if getattr(self, key) < 1:
                raise RequestError(f"few-shot.{key} is {getattr(self, key)}: it must be at least 1")

    def ways(self, bundle: DataBundle) -> int:
        """The draws."""
        check_questions(self.name, bundle.forget.score)
        pool = example_pool(bundle)
        for row in bundle.forget.score:
            found = len(self._examples(row, pool))
            if found < self.shots:
                lower = f"set shots of few-shot to {found} or less, or " if found else ""
                raise RequestError(
                    f"few-shot.shots is {self.shots}, but the retain set has {found} examples that could come before "
                    f"{row.origin or row.id} without showing its answer or an option: {lower}give the retain set more "
                    "rows with prompts, or leave few-shot out"
                )
        return self.draws

    def asked(
        self, way: int, bundle: DataBundle, text_format: TextFormat, tokenizer: PreTrainedTokenizerBase
    ) -> Asked:
        """Every question after its examples."""
        pool = example_pool(bundle)
        random.Random(f"few-shot-{self.seed}-{way}").shuffle(pool)
        rows, holdout = (
            tuple(self._with_shots(row, self._examples(row, pool), text_format, tokenizer) for row in asked)
            for asked in (bundle.forget.score, self.floor_rows(bundle))
        )
        # Prompts are written out, so that the template is not put around the examples.
        return Asked(rows, replace(text_format, template="{prompt}"), holdout=holdout)

    def floor_rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        """Those with a prompt that enough examples can stand before."""
        pool = example_pool(bundle) if bundle.floor else []
        return tuple(row for row in bundle.floor if row.prompt and len(self._examples(row, pool)) == self.shots)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Examples and draws."""
        given = "prompts of the forget set, solved retain rows"
        return {**question_budget(bundle, given), "shots": self.shots, "draws": self.draws}

    def _examples(self, row: Example, pool: Sequence[Example]) -> list[Example]:
        found: list[Example] = []
        for example in pool:
            if len(found) == self.shots:
                break
            if says_nothing_of(row, example):
                found.append(example)
        return found

    def _with_shots(
        self, row: Example, shots: Sequence[Example], fmt: TextFormat, tokenizer: PreTrainedTokenizerBase
    ) -> Example:
        if uses_chat(row, fmt):
            first = next((place for place, (role, _) in enumerate(row.turns) if role != "system"), len(row.turns))
            return replace(row, turns=(*row.turns[:first], *_turns(shots), *row.turns[first:]))
        solved = _BREAK.join(prompt_text(shot, fmt, tokenizer) + fmt.separator + shot.answer for shot in shots)
        prior = replace(row, prompt=row.prior_prompt)
        return replace(
            row,
            prompt=solved + _BREAK + prompt_text(row, fmt, tokenizer),
            prior_prompt=row.prior_prompt and solved + _BREAK + prompt_text(prior, fmt, tokenizer),
        )


def example_pool(bundle: DataBundle) -> list[Example]:
    """One retain row of each fact that shares no group with a forgotten one; conversations of one turn only."""
    forgotten = {row.group for row in bundle.forget}
    pool: dict[str, Example] = {}
    for row in bundle.retain.score:
        if row.prompt and not row.turns and row.group not in forgotten:
            pool.setdefault(row.fact, row)
    return list(pool.values())


def says_nothing_of(row: Example, example: Example) -> bool:
    """Whether a solved example shows neither a row's answer nor one of its options."""
    if row.choices and set(map(_bare, row.choices)) == set(map(_bare, example.choices)):
        return True
    return _bare(example.answer) not in {_bare(text) for text in (row.answer, *row.choices)}


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _turns(shots: Sequence[Example]) -> Iterator[tuple[str, str]]:
    for shot in shots:
        yield "user", shot.prompt
        yield "assistant", shot.answer.strip()
