"""Scores of single rows for membership inference: was this text trained on?

All are signed alike: **lower means more likely a member**, as the loss is lower on what was trained on. The aggregates
``mia_*`` compare their distributions on two sets. The reference attack needs two models and is there alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

from ..records import ScoredRow
from . import METRICS

LOWEST_SHARE = 0.4
"""Share of the least likely tokens that min-k looks at: 40 %, as in MUSE."""

_LEAST_VARIANCE = 1e-6


@METRICS.register(
    "loss",
    summary="mean negative log-likelihood per token",
    paper="Yeom et al., CSF 2018 (the loss attack)",
    version=1,
)
def loss(row: ScoredRow) -> float | None:
    """``-mean(log p)`` over the answer's tokens, nats per token."""
    return -sum(row.logps) / len(row.logps) if row.logps else None


@METRICS.register(
    "zlib_ratio",
    summary="loss over the number of bytes of the zlib-compressed answer",
    paper="arXiv 2012.07805",
    version=1,
)
def zlib_ratio(row: ScoredRow) -> float | None:
    """``loss / len(zlib(answer in UTF-8))``: a low loss says less if the text is easy to compress.

    The text is that of the tokens which the loss is taken over: the answer, or all of a row without a prompt.
    """
    value = loss(row)
    return None if value is None else value / len(zlib.compress(row.answer.encode("utf-8")))


@METRICS.register(
    "min_k",
    summary="mean negative log-likelihood of the 40 % least likely tokens",
    paper="arXiv 2310.16789; 40 % as in arXiv 2407.06460",
    defaults={"k": LOWEST_SHARE},
    version=1,
)
def min_k(row: ScoredRow) -> float | None:
    """``-mean`` of the ``int(0.4 * n)`` lowest of n log-probabilities, of one where that is none."""
    return min_k_share(row.logps, LOWEST_SHARE)


@METRICS.register(
    "min_k_plus_plus",
    summary="min-k of log-probabilities standardized by the vocabulary's distribution at their position",
    paper="arXiv 2404.02936; 40 % as in arXiv 2407.06460",
    defaults={"k": LOWEST_SHARE},
    needs=("vocabulary",),
    version=1,
)
def min_k_plus_plus(row: ScoredRow) -> float | None:
    """:func:`min_k` of ``(log p - m) / sqrt(v)``: see :func:`standardized`."""
    return min_k_share(standardized(row), LOWEST_SHARE)


@METRICS.register(
    "grad_norm",
    summary="L2 norm of the loss's gradient over all parameters",
    paper="arXiv 2402.17012",
    needs=("gradient",),
    version=1,
)
def grad_norm(row: ScoredRow) -> float | None:
    """Norm of the gradient of ``loss``: a text that was trained on pulls less."""
    return row.grad_norm


def min_k_share(logps: Sequence[float], share: float) -> float | None:
    """``-mean`` of the ``int(share * n)`` lowest of n numbers, at least one; ``None`` for no numbers.

    NaN anywhere gives NaN: where it would sort is not defined.
    """
    if not logps:
        return None
    if any(map(math.isnan, logps)):
        return math.nan
    lowest = sorted(logps)[: max(1, int(len(logps) * share))]
    return -sum(lowest) / len(lowest)


def standardized(row: ScoredRow) -> list[float]:
    """``(log p - m) / sqrt(v)`` for every answer token; empty where the record has no ``m`` and ``v``.

    ``m`` and ``v`` are mean and variance of the log-probability over the model's own distribution of that token.
    ``v`` counts as at least 1e-6: a model that is certain has none.
    """
    if not row.vocab_means:
        return []
    return [
        (logp - mean) / math.sqrt(max(variance, _LEAST_VARIANCE))
        for logp, mean, variance in zip(row.logps, row.vocab_means, row.vocab_variances, strict=True)
    ]
