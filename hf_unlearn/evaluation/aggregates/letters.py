"""Multiple choice by letter, without the preference for a letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import RequestError
from ...verification.intervals import Bootstrap, mean_estimate
from ..metrics.choices import best_is_right
from ..records import ScoredRow
from . import AGGREGATES, AggregateInput, AggregateValue
from .facts import fact_values, set_rows

_DEFAULTS: dict[str, Any] = {"forget": "forget"}


@AGGREGATES.register(
    "mc_accuracy_centered",
    summary="accuracy by letter after each letter's mean over the set is subtracted",
    paper="arXiv 2410.08827 (calibrated accuracy of its code)",
    defaults=_DEFAULTS,
    needs=("sets:forget", "options"),
    version=1,
)
def mc_accuracy_centered(data: AggregateInput) -> AggregateValue:
    """Share of facts whose right letter has the largest ``log P(letter | prompt)`` minus its mean over the set.

    A model that always prefers one letter is right by chance, and this takes that preference away; the published
    code does the same with logits, whose differences between letters are those of log-probabilities. It assumes
    that right answers are spread evenly over letters. A tie counts against the model. The means count as known in
    the interval.

    Raises:
        RequestError: The set is missing, or rows differ in their number of options.
    """
    name = "mc_accuracy_centered"
    rows = set_rows(data, name, data.options(name, _DEFAULTS)["forget"])
    options = len(rows[0].choice_logps)
    for row in rows:
        if row.right_choice < 0 or len(row.choice_logps) != options:
            raise RequestError(
                f"{name}: row {row.id!r} of the set {row.set!r} has {len(row.choice_logps)} options and the first row "
                f"has {options}: all rows must have the same number"
            )
    means = _column_means(rows)

    def value(row: ScoredRow) -> float:
        centered = [logp - mean for logp, mean in zip(row.choice_logps, means, strict=True)]
        return best_is_right(centered, row.right_choice)

    scores = fact_values(rows, name, "mc_accuracy_letter", value)
    estimate = mean_estimate(scores, Bootstrap())
    return AggregateValue(scores.mean, estimate.facts, estimate.interval)


def _column_means(rows: Sequence[ScoredRow]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*(row.choice_logps for row in rows), strict=True)]
