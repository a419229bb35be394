"""Aliases: the same question about the same thing under another name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..data.columns import named_in
from ..data.example import Example
from . import ATTACKS
from .reworded import Reworded


@ATTACKS.register(
    "alias",
    summary="put another of a row's own names for what it asks about into every question",
    paper="this project; that names matter is the finding of arXiv 2603.11266",
    defaults={"prompts": 4},
    needs=("never-knew control", "aliases"),
    tier="release",
)
@dataclass(frozen=True)
class Alias(Reworded):
    """Settings of aliases. No name is made up: rows bring theirs in the column ``aliases``.

    Attributes:
        prompts: Maximum number of other names to try; the attacker keeps the best. A row that has fewer is asked as it
            is.
    """

    name: ClassVar[str] = "alias"
    too_long: ClassVar[str] = "shorten the names"
    given: ClassVar[str] = "prompts of the forget set, other names of what they ask about"
    missing: ClassVar[str] = (
        "alias asks by other names, and no row of the forget set has any: add a column of them (aliases)"
    )

    def prompts_of(self, row: Example) -> Sequence[str]:
        """The prompt with each other name in place of its own."""
        own = named_in(row.prompt, row.aliases)
        if own is None:
            return ()
        place = re.compile(rf"(?<!\w){re.escape(own)}(?!\w)")
        return [other.join(place.split(row.prompt)) for other in row.aliases if other != own]
