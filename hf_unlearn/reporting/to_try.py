"""What usually mends what keeps a model from passing, as far as it fits the way in which it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..registry import part_name
from ..verification.report import Method
from .results import Results

_UNDECIDED = "Undecided is settled by more facts, more option draws (option_draws) or further wordings."


@dataclass(frozen=True)
class Made:
    """How the release candidate was trained, as its report tells.

    Attributes:
        here: Whether the run trained it; an audit only looks at what others trained.
        by_auto: Whether ``robust: auto`` was used, which ends its passes by itself.
        rate: The learning rate; ``None`` where the report does not tell it.
        searched: Whether the rate was found by a search.
    """

    here: bool
    by_auto: bool
    rate: float | None
    searched: bool

    @classmethod
    def of(cls, method: Method) -> Made:
        """From the settings of a report: a checkpoint has none of its own."""
        given = method.settings
        searched = bool(given.get("auto_find_learning_rate"))
        rate = given.get("found_learning_rate") if searched else given.get("learning_rate")
        return cls(
            here=bool(given) and "checkpoint" not in given,
            by_auto=any(_is_auto(spec) for spec in _specs(given.get("robust"))),
            rate=float(rate) if isinstance(rate, int | float) else None,
            searched=searched,
        )

    def other_rate(self, times: str, factor: float) -> str:
        """Another learning rate, ``times`` this one, with the number that is meant where this one is known."""
        if self.rate is None:
            told = "found by a search, see training.json" if self.searched else ""
        else:
            told = f"{self.rate:g} was {'found' if self.searched else 'used'}: learning_rate {factor * self.rate:.2g}"
        return f"{times} the learning rate{f' ({told})' if told else ''}"


def what_to_try(results: Results) -> list[str]:
    """What usually mends what keeps the release candidate from passing; nothing where it passed.

    Not where a control got a wrong verdict: then the verdict itself is not to be relied on.
    """
    outcomes = results.report.verdict.outcomes or ()
    if results.wrong_controls or results.status == "passed":
        return []
    causes = {cause for each in outcomes if each.status == "failed" for cause in each.causes}
    made = Made.of(results.report.method)
    told = _of_a_training(made) if made.here else _OF_AN_AUDIT
    sentences = [words for cause, words in told.items() if cause in causes]
    if any(each.status == "inconclusive" for each in outcomes):
        sentences.append(_UNDECIDED)
    return sentences


_OF_AN_AUDIT = {
    "knowledge": "Knowledge is left or comes back: where this model was made, unlearn more; or unlearn the target "
    "anew with `robust: auto` (hf-unlearn run).",
    "over-forgetting": "Right answers are avoided, which tells what was forgotten: where this model was made, a lower "
    "learning rate or fewer passes.",
    "utility": "Use is lost: where this model was made, a lower learning rate, or more retain rows of the kind that "
    "suffers.",
    "marked rows": "The model gives away which rows were forgotten: where it was made, stop at the level of holdout "
    "rows, and train no refusals on the forget set.",
}


def _of_a_training(made: Made) -> Mapping[str, str]:
    more, less = made.other_rate("up to three times", 3), made.other_rate("a third of", 1 / 3)
    return {
        "knowledge": "Knowledge is left or comes back: "
        + (
            f"{more}, or longer rehearsals (rehearse_passes of auto)."
            if made.by_auto
            else f"`robust: auto`; or {more}, or more passes (num_train_epochs)."
        ),
        "over-forgetting": f"Right answers are avoided, which tells what was forgotten: {less}, or fewer passes.",
        "utility": f"Use is lost: {less}, a larger retain_weight, more retain rows of the kind that suffers, or texts "
        "that the target writes itself (data.keep_drawn).",
        "marked rows": "The model gives away which rows were forgotten: stop at the level of holdout rows (fewer "
        "passes, a bounded loss), and train no refusals on the forget set.",
    }


def _specs(robust: Any) -> Sequence[Any]:
    return robust if isinstance(robust, list | tuple) else [robust]


def _is_auto(spec: Any) -> bool:
    named = isinstance(spec, str) or (isinstance(spec, Mapping) and "name" in spec)
    return named and part_name(spec) == "auto"
