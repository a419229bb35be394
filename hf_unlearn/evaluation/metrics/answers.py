"""Metrics that compare the true answer with wrong ones, and with itself in other words (TOFU, arXiv 2401.06121).

Written here: ``c`` is the mean log-probability per token of the right answer in other words, averaged over its
paraphrases where there are several; ``w_i`` is that of the i-th wrong answer, ``w`` the mean of all ``w_i``.
Where the data has no paraphrase (TOFU's real authors and world facts), its rows name the true answer as its own
paraphrase, as TOFU's evaluation does.
"""

from __future__ import annotations

import math

from ..records import ScoredRow
from . import METRICS

_BOTH = ("variants:paraphrased", "variants:perturbed")
# Beyond this e ** x is no float; two answers that far apart per token are as different as can be.
_LARGEST = 700.0


@METRICS.register(
    "probability_paraphrased",
    summary="geometric mean of the token probabilities of the paraphrased answer",
    paper="arXiv 2401.06121",
    needs=("variants:paraphrased",),
    version=1,
)
def probability_paraphrased(row: ScoredRow) -> float | None:
    """Mean over paraphrases of ``exp(mean log-probability per token)``, in 0 ... 1."""
    means = _means(row, "paraphrased")
    return sum(map(math.exp, means)) / len(means) if means else None


@METRICS.register(
    "probability_normalized",
    summary="probability per token of the true answer over the sum with the wrong ones",
    paper="arXiv 2401.06121, section 2.2.2 (real authors and world facts)",
    needs=("variants:perturbed",),
    version=1,
)
def probability_normalized(row: ScoredRow) -> float | None:
    """``p / (p + sum_i exp(w_i))`` with ``p`` the answer's ``probability``, in 0 ... 1.

    The same as ``mc_probability`` where the options are the true and the wrong answers.
    """
    own, wrong = _own_mean(row), _means(row, "perturbed")
    if own is None or not wrong:
        return None
    greatest = max(own, *wrong)
    weights = [math.exp(mean - greatest) for mean in (own, *wrong)]
    return weights[0] / sum(weights)


@METRICS.register(
    "truth_ratio",
    summary="probability of wrong answers over that of the paraphrased right answer (older form)",
    paper="arXiv 2401.06121, eq. 1, with the geometric mean of its code and of arXiv 2506.12618",
    needs=_BOTH,
    version=1,
)
def truth_ratio(row: ScoredRow) -> float | None:
    """``exp(w - c)``, above 0: the geometric mean of the wrong answers' probabilities over the right one's.

    TOFU's equation takes the arithmetic mean: see :func:`truth_ratio_arithmetic`. Below 1 a model prefers what is
    true. Nothing is added to the denominator: common code adds 1e-10, which is more than the probability per token
    that a model which unlearned by gradient ascent gives any answer, and so replaces the ratio by another number.
    """
    difference = wrong_minus_right(row)
    return None if difference is None else math.exp(min(difference, _LARGEST))


@METRICS.register(
    "truth_ratio_arithmetic",
    summary="truth ratio with the arithmetic mean of the wrong answers' probabilities, as the paper has it",
    paper="arXiv 2401.06121, eq. 1",
    needs=_BOTH,
    version=1,
)
def truth_ratio_arithmetic(row: ScoredRow) -> float | None:
    """``mean_i exp(w_i) / exp(c)``, above 0. Never below :func:`truth_ratio`."""
    right, wrong = _means(row, "paraphrased"), _means(row, "perturbed")
    if not right or not wrong:
        return None
    mean = sum(right) / len(right)
    return sum(math.exp(min(other - mean, _LARGEST)) for other in wrong) / len(wrong)


@METRICS.register(
    "truth_ratio_closeness",
    summary="how close the truth ratio is to 1, on facts to forget",
    paper="arXiv 2401.06121 (its code), arXiv 2506.12618",
    needs=_BOTH,
    version=1,
)
def truth_ratio_closeness(row: ScoredRow) -> float | None:
    """``min(t, 1 / t)`` for the truth ratio ``t``, in 0 ... 1: 1 where right and wrong answers are as likely."""
    difference = wrong_minus_right(row)
    return None if difference is None else math.exp(-abs(difference))


@METRICS.register(
    "truth_ratio_preference",
    summary="how clearly the truth ratio prefers the truth, on facts to keep",
    paper="arXiv 2401.06121, section 2.2.2",
    needs=_BOTH,
    version=1,
)
def truth_ratio_preference(row: ScoredRow) -> float | None:
    """``max(0, 1 - t)`` for the truth ratio ``t``, in 0 ... 1. A part of TOFU's model utility."""
    difference = wrong_minus_right(row)
    return None if difference is None else max(0.0, -math.expm1(min(difference, _LARGEST)))


@METRICS.register(
    "truth_share",
    summary="probability of the right answer over the sum with wrong ones (newer form of the truth ratio)",
    paper="arXiv 2506.12618 (truth ratio of its meta-evaluation)",
    needs=_BOTH,
    version=1,
)
def truth_share(row: ScoredRow) -> float | None:
    """``exp(c) / (exp(c) + exp(w))``, in 0 ... 1: ``1 / (1 + t)`` for the truth ratio ``t``; higher: more is known."""
    difference = wrong_minus_right(row)
    return None if difference is None else 1 / (1 + math.exp(min(difference, _LARGEST)))


def wrong_minus_right(row: ScoredRow) -> float | None:
    """Logarithm of the truth ratio, ``w - c``: what rank tests use, since no two ratios become equal in it."""
    right, wrong = _means(row, "paraphrased"), _means(row, "perturbed")
    return sum(wrong) / len(wrong) - sum(right) / len(right) if right and wrong else None


def _means(row: ScoredRow, kind: str) -> list[float]:
    return [score.mean for score in row.variants.get(kind, ())]


def _own_mean(row: ScoredRow) -> float | None:
    """Mean log-probability per token of the answer, even if a log only holds its probability."""
    if row.logps:
        return sum(row.logps) / len(row.logps)
    known = row.values.get("probability")
    return math.log(known) if known else None
