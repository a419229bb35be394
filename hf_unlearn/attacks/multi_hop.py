"""Multi-hop questions: the same answer by way of another fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..data.example import Example
from . import ATTACKS
from .reworded import Reworded


@ATTACKS.register(
    "multi-hop",
    summary="ask for every answer by a row's own questions that reach it by way of another fact",
    paper="this project; that such questions matter is the finding of arXiv 2603.11266",
    defaults={"prompts": 4},
    needs=("never-knew control", "hops"),
    tier="release",
)
@dataclass(frozen=True)
class MultiHop(Reworded):
    """Settings of multi-hop questions. Nothing is written by a model: rows bring theirs in the column ``hops``.

    Attributes:
        prompts: Maximum number of such questions to try; the attacker keeps the best. A row that has fewer is asked as
            it is.
    """

    name: ClassVar[str] = "multi-hop"
    too_long: ClassVar[str] = "shorten the questions"
    given: ClassVar[str] = "questions of the same answers by way of other facts"
    missing: ClassVar[str] = (
        "multi-hop asks by way of other facts, and no row of the forget set has such questions: add a column of them "
        "(hops)"
    )

    def prompts_of(self, row: Example) -> Sequence[str]:
        """The row's own."""
        return row.hops
