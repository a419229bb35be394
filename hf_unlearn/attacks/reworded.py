"""Asking by prompts that rows bring: what attacks have in common that put another prompt in a row's place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from ..errors import RequestError
from .prompting import PromptAttack, question_budget
from .scoring import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reworded(PromptAttack):
    """Every row is asked by one of its own further prompts, where it has one; the attacker keeps the best.

    Attributes:
        prompts: Maximum number of further prompts to try. A row that has fewer is asked as it is.
    """

    prompts: int = 4

    numbered: ClassVar[str] = "prompt"
    given: ClassVar[str]
    missing: ClassVar[str]

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise RequestError(f"{self.name}.prompts is {self.prompts}: it must be at least 1")

    @abstractmethod
    def prompts_of(self, row: Example) -> Sequence[str]:
        """Further prompts of a row."""

    def ways(self, bundle: DataBundle) -> int:
        """As many as the row with the most further prompts has, up to ``prompts``.

        Raises:
            RequestError: No row has any.
        """
        most = max((len(self.usable(row)) for row in bundle.forget.score), default=0)
        if not most:
            raise RequestError(f"{self.missing}, or leave {self.name} out")
        return min(most, self.prompts)

    def asked(
        self, way: int, bundle: DataBundle, text_format: TextFormat, tokenizer: PreTrainedTokenizerBase
    ) -> Asked:
        """Every row by its further prompt of this number."""
        rows, holdout = (tuple(self._by(way, row) for row in asked) for asked in (bundle.forget.score, bundle.floor))
        return Asked(rows, text_format, holdout=holdout)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Prompts, and how many rows have any."""
        having = sum(bool(self.usable(row)) for row in bundle.forget.score)
        ways = self.ways(bundle)
        return {**question_budget(bundle, self.given), "other_prompts": ways, "rows_with_other_prompts": having}

    def usable(self, row: Example) -> list[str]:
        """Further prompts of a row that do not hold its answer."""
        answer = _bare(row.answer)
        prompts = self.prompts_of(row) if row.prompt else ()
        return [text for text in dict.fromkeys(prompts) if text != row.prompt and answer not in _bare(text)]

    def _by(self, way: int, row: Example) -> Example:
        found = self.usable(row)
        return replace(row, prompt=found[way - 1]) if way <= len(found) else row


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
