"""Metrics of rows with options. Options are compared as answer texts, not by letters in the prompt."""

from __future__ import annotations

import math

from ..records import ScoredRow
from . import METRICS


@METRICS.register(
    "mc_accuracy",
    summary="whether the right option is the most likely one per token",
    paper="arXiv 2410.08827 (by answer text instead of by letter)",
    needs=("options",),
)
def mc_accuracy(row: ScoredRow) -> float | None:
    """1 if the right option's mean log-probability per token is above that of every other option, else 0.

    Per token, because a sum would prefer short options. A tie counts against the model: one that gives all options
    the same score knows nothing.
    """
    if row.right_choice < 0:
        return None
    means = _means(row)
    right = means.pop(row.right_choice)
    return float(all(right > other for other in means))


@METRICS.register(
    "mc_probability",
    summary="share of the right option in the options' probabilities per token",
    paper="arXiv 2401.06121 (probability on real authors and world facts)",
    needs=("options",),
)
def mc_probability(row: ScoredRow) -> float | None:
    """``p_right / sum(p)`` with ``p = P(option | prompt) ** (1 / tokens)``, in 0 ... 1; ``1 / options`` by chance."""
    if row.right_choice < 0:
        return None
    means = _means(row)
    greatest = max(means)
    weights = [math.exp(mean - greatest) for mean in means]
    return weights[row.right_choice] / sum(weights)


def _means(row: ScoredRow) -> list[float]:
    return [logp / length for logp, length in zip(row.choice_logps, row.choice_lengths, strict=True)]
