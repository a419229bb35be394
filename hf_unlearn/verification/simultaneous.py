"""Intervals that hold for all judged numbers at once.

A verdict looks at many recovered shares: every transform by every metric. Two different errors have to be kept rare.

*A pass that should not be.* A pass needs every share to be small. If one of them is too large in truth, a wrong pass
needs at least that share's own interval to miss, whatever the others do: the intervals of single shares suffice, and
no correction for their number is due (an intersection-union test).

*A failure that should not be.* One share that is too large suffices to fail, so every further transform is another
chance to fail by bad luck. A failure therefore needs an interval that holds for all shares at once.

The joint intervals are the single ones made longer by one factor, from the bootstrap distribution of the largest
standardized deviation ("max-t": Romano and Wolf, "Exact and Approximate Stepdown Methods for Multiple Hypothesis
Testing", JASA 2005). The same groups of facts are drawn for all transforms, so that shares which move together cost
little; Bonferroni would treat six scorings of the same facts as six independent tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .intervals import Drawn, Estimate, t_quantile


@dataclass(frozen=True)
class Family:
    """Shares that are judged together.

    Attributes:
        comparisons: How many there are.
        deviation: The standardized deviation that all of them stay within, with the confidence asked for.
        confidence: Level of the two-sided intervals, the single ones and the joint ones.
    """

    comparisons: int
    deviation: float
    confidence: float

    @property
    def factor(self) -> float:
        """How many times as long the joint intervals are, with many groups."""
        return self.deviation / NormalDist().inv_cdf((1 + self.confidence) / 2)

    def interval(self, estimate: Estimate) -> tuple[float, float] | None:
        """The joint interval of one member.

        Both sides of its own interval are lengthened alike, so that what was skewed stays skewed. Few groups need a
        larger factor, as quantiles of t grow faster than those of a normal distribution.

        Args:
            estimate: The member, with its own interval.

        Returns:
            Both ends, or ``None`` where it has no interval of its own.
        """
        if estimate.value is None or estimate.low is None or estimate.high is None:
            return None
        normal = NormalDist()
        freedom = max(estimate.groups - 1, 1)
        single = t_quantile((1 + self.confidence) / 2, freedom)
        factor = max(1.0, t_quantile(normal.cdf(self.deviation), freedom) / single)
        return (
            estimate.value - factor * (estimate.value - estimate.low),
            estimate.value + factor * (estimate.high - estimate.value),
        )


def family_of(members: Sequence[Drawn], confidence: float) -> Family:
    """The family of some shares.

    Args:
        members: Shares with the resampled values that their intervals come from. Those without any (undefined ones)
            take no part.
        confidence: With this probability all intervals hold at once.

    Returns:
        The family; that of one share or none has the deviation of its own interval.
    """
    single = NormalDist().inv_cdf((1 + confidence) / 2)
    deviations = [found for member in members if (found := _standardized(member)) is not None]
    if len(deviations) < 2:
        return Family(len(deviations), single, confidence)
    largest = np.max(np.stack(deviations), axis=0)
    # In a family of copies of one share the draws give back that share's own quantile, give or take their noise.
    return Family(len(deviations), max(single, float(np.quantile(largest, confidence))), confidence)


def _standardized(member: Drawn) -> NDArray[np.float64] | None:
    """``|draw - value| / standard deviation`` of every draw, ``[draws]``; ``None`` where nothing varies."""
    if member.draws is None or member.estimate.value is None:
        return None
    draws = member.draws
    finite = np.isfinite(draws)
    if not finite.all():  # a vanishing denominator: as far out as any draw that has a value
        draws = np.where(finite, draws, draws[finite].max())
    spread = float(draws.std())
    return np.abs(draws - member.estimate.value) / spread if spread > 0 else np.zeros_like(draws)
