"""Metrics of rows with options, scored as answer texts or as the letters before them in the prompt.

Every accuracy counts a tie against the model: one that gives all options the same score knows nothing. Taking the
first of the best, as is common, makes such a model right whenever the right option comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..records import ScoredRow
from . import METRICS


@METRICS.register(
    "mc_accuracy",
    summary="whether the right option is the most likely one per token",
    paper="arXiv 2410.08827 (by answer text instead of by letter)",
    needs=("options",),
    version=1,
)
def mc_accuracy(row: ScoredRow) -> float | None:
    """1 if the right option's mean log-probability per token is above that of every other option, else 0.

    Per token, because a sum would prefer short options.
    """
    return best_is_right(_means(row), row.right_choice) if row.right_choice >= 0 else None


@METRICS.register(
    "mc_accuracy_letter",
    summary="whether the right option is the most likely one as a whole, for options that are letters",
    paper="arXiv 2009.03300, arXiv 2410.08827",
    needs=("options",),
    version=1,
)
def mc_accuracy_letter(row: ScoredRow) -> float | None:
    """1 if the right option's summed log-probability is above that of every other option, else 0.

    For rows whose options are the letters ``A``, ``B`` ... and whose prompt lists the answer texts. Letters are
    compared by their probability after the prompt, each with the tokens that the tokenizer really gives it there.
    """
    return best_is_right(row.choice_logps, row.right_choice) if row.right_choice >= 0 else None


@METRICS.register(
    "mc_accuracy_calibrated",
    summary="whether the right option gains most from the question, compared with a prompt without it",
    paper="arXiv 2104.08315 (domain-conditional mutual information), arXiv 2102.09690",
    needs=("options", "prior"),
    version=1,
)
def mc_accuracy_calibrated(row: ScoredRow) -> float | None:
    """1 if ``log P(option | prompt) - log P(option | prior prompt)`` is largest for the right option, else 0.

    Sums over the option's tokens, for texts and letters alike: what makes an option likely without any question,
    its length included, cancels.
    """
    if row.right_choice < 0 or not row.prior_logps:
        return None
    gains = [logp - prior for logp, prior in zip(row.choice_logps, row.prior_logps, strict=True)]
    return best_is_right(gains, row.right_choice)


@METRICS.register(
    "mc_probability",
    summary="share of the right option in the options' probabilities per token",
    paper="arXiv 2401.06121 (probability on real authors and world facts)",
    needs=("options",),
    version=1,
)
def mc_probability(row: ScoredRow) -> float | None:
    """``p_right / sum(p)`` with ``p = P(option | prompt) ** (1 / tokens)``, in 0 ... 1; ``1 / options`` by chance."""
    if row.right_choice < 0:
        return None
    means = _means(row)
    greatest = max(means)
    weights = [math.exp(mean - greatest) for mean in means]
    return weights[row.right_choice] / sum(weights)


def best_is_right(scores: Sequence[float], right: int) -> float:
    """1 if the score at ``right`` is above all others, else 0. One that is not a number makes the result so too."""
    if any(map(math.isnan, scores)):
        return math.nan
    return float(all(scores[right] > score for place, score in enumerate(scores) if place != right))


def _means(row: ScoredRow) -> list[float]:
    return [logp / length for logp, length in zip(row.choice_logps, row.choice_lengths, strict=True)]
