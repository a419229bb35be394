"""Wrong options of multiple choice as alternates."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import RequestError
from ..example import Example
from . import ALTERNATES
from .base import AlternateSource, Given, drawn, same_answer, shaped_like

_MEND = "name the options in the data (choices=), or use other-answers, variants or generated"


def wrong_options(row: Example) -> tuple[str, ...]:
    """The row's options without the right one."""
    return tuple(option for option in row.choices if not same_answer(option, row.answer))


@ALTERNATES.register("options", summary="Each row's wrong options; every epoch draws one.")
class OptionAlternates(AlternateSource):
    """All wrong options of a row."""

    def answers(self, given: Given) -> list[tuple[str, ...]]:
        """Wrong options, in their order."""
        found = []
        for row in given.forget:
            texts = wrong_options(row)
            if not texts:
                raise RequestError(f"alternates: {row.origin or row.id} has no wrong options: {_MEND}")
            found.append(tuple(shaped_like(row, text) for text in texts))
        return found


@ALTERNATES.register("fixed-option", summary="One wrong option, the same in every row of a fact and in every epoch.")
class FixedOptionAlternates(AlternateSource):
    """One wrong option for each fact. Rows that have no options of their own take those of their fact's other rows."""

    def answers(self, given: Given) -> list[tuple[str, ...]]:
        """One text for each row."""
        of_fact: dict[str, list[Example]] = {}
        for row in given.forget:
            of_fact.setdefault(row.fact, []).append(row)
        chosen = {fact: self._choose(fact, rows, given.seed) for fact, rows in of_fact.items()}
        return [(shaped_like(row, chosen[row.fact]),) for row in given.forget]

    def _choose(self, fact: str, rows: Sequence[Example], seed: int) -> str:
        options = sorted({option.strip() for row in rows for option in wrong_options(row)})
        # An option that is right in another row of the fact is not a wrong answer.
        options = [option for option in options if not any(same_answer(option, row.answer) for row in rows)]
        if not options:
            raise RequestError(f"alternates: {rows[0].origin or rows[0].id} has no wrong options: {_MEND}")
        return options[drawn(seed, fact, len(options))]
