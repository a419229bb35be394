"""Paraphrases: the same fact asked for in other words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example, RowSet
from ..errors import RequestError
from . import ATTACKS
from .prompting import PromptAttack, question_budget
from .scoring import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@ATTACKS.register(
    "paraphrase",
    summary="ask for every fact with its other prompts, including those it was learned with",
    paper="arXiv 2602.06248, arXiv 2603.11266 (what one wording hides, another finds)",
    defaults={"prompts": 4},
    needs=("never-knew control", "other prompts"),
    tier="release",
)
@dataclass(frozen=True)
class Paraphrase(PromptAttack):
    """Settings of paraphrases. Nothing is written by a model: the data's own prompts are used.

    Other prompts of a row are those in its column ``paraphrased_prompt``, and those of rows (to train on or to score)
    of the same fact with the same answer. Prompts that hold the answer are left out.

    Attributes:
        prompts: Maximum number of other prompts to try; the attacker keeps the best. A row that has fewer is asked as
            it is.
    """

    prompts: int = 4

    name: ClassVar[str] = "paraphrase"
    numbered: ClassVar[str] = "prompt"
    too_long: ClassVar[str] = "shorten the other prompts"

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise RequestError(f"paraphrase.prompts is {self.prompts}: it must be at least 1")

    def ways(self, bundle: DataBundle) -> int:
        """As many as the row with the most other prompts has, up to ``prompts``."""
        most = max(map(len, other_prompts(bundle).values()))
        if not most:
            raise RequestError(
                "paraphrase asks for facts by other prompts, and no row of the forget set has any: add a column of "
                "other prompts (paraphrased_prompt), or name one that says which rows are about the same fact (fact), "
                "or leave paraphrase out"
            )
        return min(most, self.prompts)

    def asked(
        self, way: int, bundle: DataBundle, text_format: TextFormat, tokenizer: PreTrainedTokenizerBase
    ) -> Asked:
        """Every row by its other prompt of this number, where it has one."""
        rows = _reworded(bundle.forget, way)
        return Asked(rows, text_format, holdout=_reworded(RowSet(bundle.holdout.train, bundle.floor), way))

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Prompts, and how many rows have any."""
        with_others = sum(bool(found) for found in other_prompts(bundle).values())
        given = "prompts of the forget set, other prompts of the same facts"
        ways = self.ways(bundle)
        return {**question_budget(bundle, given), "other_prompts": ways, "rows_with_other_prompts": with_others}


def other_prompts(bundle: DataBundle) -> Mapping[str, tuple[str, ...]]:
    """Row id to prompts in other words, for every scored row of the forget set."""
    return _other_prompts_of(bundle.forget)


def _reworded(asked: RowSet, way: int) -> tuple[Example, ...]:
    others = _other_prompts_of(asked)
    return tuple(
        replace(row, prompt=others[row.id][way - 1]) if way <= len(others[row.id]) else row for row in asked.score
    )


def _other_prompts_of(asked: RowSet) -> Mapping[str, tuple[str, ...]]:
    rows: dict[tuple[object, ...], list[Example]] = {}
    for row in asked:
        rows.setdefault(_key(row), []).append(row)
    found = {}
    for row in asked.score:
        prompts = [*row.other_prompts, *(other.prompt for other in rows[_key(row)])] if row.prompt else []
        answer = _bare(row.answer)
        found[row.id] = tuple(
            prompt
            for prompt in dict.fromkeys(prompts)
            if prompt and prompt != row.prompt and answer not in _bare(prompt)
        )
    return found


def _key(row: Example) -> tuple[object, ...]:
    return row.fact, row.turns, row.conversational, _bare(row.answer)


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
