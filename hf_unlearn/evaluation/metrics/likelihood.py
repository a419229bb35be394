"""Metrics of the answer's own tokens under teacher forcing."""

from __future__ import annotations

import math

from ..records import ScoredRow
from . import METRICS


@METRICS.register(
    "probability",
    summary="geometric mean of the answer tokens' probabilities",
    paper="arXiv 2401.06121",
    version=1,
)
def probability(row: ScoredRow) -> float | None:
    """``P(answer | prompt) ** (1 / n)`` for an answer of n tokens: ``exp`` of the mean log-probability, in 0 ... 1."""
    return math.exp(sum(row.logps) / len(row.logps)) if row.logps else None


@METRICS.register(
    "exact_memorization",
    summary="share of the answer's tokens that are the most likely one",
    paper="arXiv 2205.10770, arXiv 2406.09179 (as a metric of unlearning)",
    version=1,
)
def exact_memorization(row: ScoredRow) -> float | None:
    """``hits / n`` for an answer of n tokens, each given the true ones before it, in 0 ... 1."""
    return sum(row.hits) / len(row.hits) if row.hits else None


@METRICS.register(
    "extraction_strength",
    summary="share of the answer that can be extracted given the rest of it",
    paper="arXiv 2012.07805 (idea), arXiv 2406.09179 (as a metric of unlearning)",
    version=1,
)
def extraction_strength(row: ScoredRow) -> float | None:
    """``1 - k / n``, with k the fewest leading answer tokens after which greedy decoding gives all the others.

    In 0 ... 1: 1 if the prompt alone yields the whole answer. An answer whose last token is missed has ``k = n`` and
    scores 0; implementations that stop at ``k = n - 1`` give ``1 / n`` there, which for short answers is far from 0.
    """
    if not row.hits:
        return None
    missed = [index for index, hit in enumerate(row.hits) if not hit]
    needed = missed[-1] + 1 if missed else 0
    return 1 - needed / len(row.hits)
