"""Bootstrap intervals over groups of facts.

Facts of one group may say something of each other, so whole groups are resampled, and every model's values of the
same facts are drawn together (paired). All intervals are *expanded percentile* intervals (Hesterberg, "What Teachers
Should Know About the Bootstrap", arXiv 1411.5279): the plain percentile interval is too short with few groups,
because it lacks the factor sqrt(n / (n - 1)) and uses a normal quantile where a t quantile is due.

A bootstrap only sees what is in the sample. Where few facts are known, and those wholly, a sample often holds none or
one of them, and its interval is far too short (a wrong pass in 11 % of cases instead of 2.5 %). The interval of a
recovered share therefore never ends before Gaffke's bound for the mean of bounded values ("Three test statistics for
a nonparametric one-sided hypothesis on the mean of a nonnegative variable", Mathematical Methods of Statistics 14,
2005; Learned-Miller and Thomas, arXiv 1905.06208): groups get random Dirichlet weights, and one more group, known as
well as can be, is added to them. For scores that are 0 or 1 this is the exact bound of Clopper and Pearson.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .scores import FactScores

MIN_GROUPS = 10
"""With fewer groups than this no bootstrap interval is given: it would not cover what it claims to cover."""

SETTLED = 0.9
"""Probability with which the predicted number of further facts is to settle an undecided share."""

_CHUNK = 1024
_NORMAL = NormalDist()
_MOST_FACTS = 1_000_000


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        draws: Number of resamples.
        confidence: Level of the two-sided interval.
        seed: Seed of the resampling; the same scores give the same interval.
    """

    draws: int = 10_000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, or the reason why there is none.

    Attributes:
        value: The point estimate; ``None`` where it is undefined.
        low: Lower end of the interval; ``None`` where it is undefined.
        high: Upper end of the interval; ``None`` where it is undefined.
        facts: Number of facts it rests on.
        groups: Number of groups that were resampled.
        undefined: Why there is no interval; empty where there is one.
        error: Standard error: how much the value varies over resamples; ``None`` where it is undefined.
    """

    value: float | None
    low: float | None
    high: float | None
    facts: int
    groups: int
    undefined: str = ""
    error: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, or ``None`` where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Drawn:
    """An estimate with what its interval was read from.

    Attributes:
        estimate: Value and interval.
        draws: Its value in every resample, ``[draws]``, infinite where a denominator vanished; ``None`` where there is
            no interval. Shares of the same facts with the same settings are resampled alike, draw by draw.
    """

    estimate: Estimate
    draws: NDArray[np.float64] | None = None


def mean_estimate(scores: FactScores, settings: Bootstrap) -> Estimate:
    """Mean over facts with its interval.

    Args:
        scores: One value per fact.
        settings: How the interval is made.

    Returns:
        The estimate; with fewer than :data:`MIN_GROUPS` groups it has a value and no interval.
    """
    sample = _Sample([scores])
    mean = float(sample.means[0])
    if sample.problem:
        value = mean if math.isfinite(mean) else None
        return Estimate(value, None, None, sample.facts, sample.groups, sample.problem)
    draws = _Draws(sample.means, sample.resample(settings), sample.facts, sample.groups)
    return draws.estimate(mean, draws.draws[:, 0], settings)


def difference(first: FactScores, second: FactScores, settings: Bootstrap, *, paired: bool) -> Estimate:
    """Mean of ``first`` minus mean of ``second`` with its interval.

    Args:
        first: One value per fact.
        second: One value per fact; of the same facts if ``paired``.
        settings: How the interval is made.
        paired: Whether both are resampled together.

    Returns:
        The estimate; undefined with too few groups.
    """
    draws = _joint_draws([first], second, settings, paired=paired)
    if isinstance(draws, Estimate):
        return draws
    return draws.estimate(draws.means[0] - draws.means[1], draws.draws[:, 0] - draws.draws[:, 1], settings)


def retention_ratio(subject: FactScores, target: FactScores, settings: Bootstrap) -> Estimate:
    """Retention ratio ``s(subject) / s(target)``, paired, both under the same transform.

    Args:
        subject: Scores of the unlearned model.
        target: Scores of the target model on the same facts.
        settings: How the interval is made.

    Returns:
        The estimate; undefined where the target's score is not clearly above zero.
    """
    return _ratio(
        _joint_draws([subject], target, settings, paired=True),
        settings,
        numerator=(1.0, 0.0),
        denominator=(0.0, 1.0),
        nothing="the target's score is not clearly above zero",
    ).estimate


def recovered_share(
    subject: FactScores, target: FactScores, never: FactScores, settings: Bootstrap, *, paired: bool = True
) -> Estimate:
    """Recovered share ``(s(subject) - s(never)) / (s(target) - s(never))``, all under the same transform.

    Args:
        subject: Scores of the unlearned model.
        target: Scores of the target model on the same facts.
        never: Scores of the never-knew model on the same facts; or, with ``paired=False``, scores on other facts
            that replace it and are resampled on their own.
        settings: How the interval is made.
        paired: Whether ``never`` is about the same facts.

    Returns:
        The estimate. It is undefined, never infinite, where the target does not clearly know more than the never-knew
        model: where the interval of the denominator touches zero.
    """
    return drawn_share(subject, target, never, settings, paired=paired).estimate


def drawn_share(
    subject: FactScores, target: FactScores, never: FactScores, settings: Bootstrap, *, paired: bool = True
) -> Drawn:
    """:func:`recovered_share` with its value in every resample."""
    drawn = _ratio(
        _joint_draws([subject, target], never, settings, paired=paired),
        settings,
        numerator=(1.0, 0.0, -1.0),
        denominator=(0.0, 1.0, -1.0),
        nothing="the target does not clearly know more than a model that never knew",
    )
    share = drawn.estimate
    if share.low is None or share.high is None:
        return drawn
    low, high = _gaffke_ends([subject, target], never, settings, paired=paired)
    return replace(drawn, estimate=replace(share, low=min(share.low, low), high=max(share.high, high)))


def _gaffke_ends(
    models: Sequence[FactScores], never: FactScores, settings: Bootstrap, *, paired: bool
) -> tuple[float, float]:
    """Both ends of Gaffke's interval for a recovered share; infinite where the denominator may vanish.

    Args:
        models: Scores of the unlearned model and of the target.
        never: Scores of the never-knew model, or of other facts that replace it.
        settings: Draws, level and seed.
        paired: Whether all three are about the same facts.
    """
    tail = (1 - settings.confidence) / 2
    ends = []
    # One more group: the unlearned model knows it as the target does, or knows nothing where the target knows it.
    for known, probability in ((0.0, tail), (1.0, 1 - tail)):
        if paired:
            means = _Sample([*models, never]).weighted(settings, (known, 1.0, 0.0))
        else:
            elsewhere = replace(settings, seed=settings.seed + 1)
            apart = _Sample([never]).weighted(elsewhere, (1.0 - known,))
            means = np.hstack([_Sample(models).weighted(settings, (known, 1.0)), apart])
        above, below = means[:, 0] - means[:, 2], means[:, 1] - means[:, 2]
        beyond = np.inf if known else -np.inf
        ratio = np.where(below > 0, above / np.where(below > 0, below, 1.0), beyond)
        ends.append(float(np.quantile(ratio, probability, method="higher" if known else "lower")))
    return ends[0], ends[1]


def more_needed(estimate: Estimate, joint: tuple[float, float], limit: float, confidence: float) -> int | None:
    """How many further facts would most likely settle on which side of ``limit`` the truth lies.

    With ``G`` groups now and ``G'`` in all, the new estimate is predicted as normal around the present one with
    variance ``s^2 (G' - G) / G'`` (flat prior; ``s`` is the present standard error, read from the longer side of the
    interval), and both intervals shrink. It is settled when the own interval lies under the limit or the joint one
    above it. The answer is the smallest ``G'`` for which that has a probability of :data:`SETTLED`, turned into facts.

    Args:
        estimate: An estimate with its own interval, which decides whether it is under the limit.
        joint: The interval that decides whether it is above the limit.
        limit: The limit.
        confidence: Level of the estimate's interval.

    Returns:
        The number of facts to add (at least 1, rounded up to two significant digits), or ``None`` where no sensible
        number can be given: the estimate is undefined, has no width, or would need more than a million facts.
    """
    if estimate.value is None or estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return None
    value, facts_per_group = estimate.value, estimate.facts / estimate.groups
    normal = _NORMAL.inv_cdf((1 + confidence) / 2)
    upper, lower = estimate.high - value, value - joint[0]
    # What Gaffke's extra group adds to a side shrinks with the number of groups, the rest with its square root.
    extra = 0.0 if estimate.error is None else max(0.0, upper - normal * estimate.error)
    # The truth may be off by what that group represents, too.
    error = max(upper, estimate.value - estimate.low) / normal
    most = int(_MOST_FACTS / facts_per_group)
    total = max(estimate.groups + 1, least_groups(limit, confidence) or 0)
    while total <= most:
        shrunk = math.sqrt(estimate.groups / total)
        spread = error * math.sqrt(1 - estimate.groups / total)
        under = _NORMAL.cdf((limit - shrunk * (upper - extra) - shrunk**2 * extra - value) / spread)
        above = 1 - _NORMAL.cdf((limit + shrunk * lower - value) / spread)
        if under + above >= SETTLED:
            return _two_digits(max(1, math.ceil((total - estimate.groups) * facts_per_group)))
        total = max(total + 1, math.ceil(total * 1.01))
    return None


def _two_digits(count: int) -> int:
    """Rounded up to two significant digits: a prediction is no more exact than that."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit


def least_groups(threshold: float, confidence: float) -> int | None:
    """The smallest number of independent groups of facts that can show a share of at most ``threshold``.

    Facts of one group may be known all together or not at all, so groups are what is counted. If a share ``threshold``
    of all groups were still fully known, ``n`` groups would miss them all with probability ``(1 - threshold) ** n``.
    A pass needs enough groups to make this probability at most ``(1 - confidence) / 2``.

    Args:
        threshold: Largest allowed share.
        confidence: Level of the two-sided interval.

    Returns:
        The number of groups; ``None`` for a threshold of zero, which no number of groups can show.
    """
    if threshold <= 0:
        return None
    if threshold >= 1:
        return 1
    return math.ceil(math.log((1 - confidence) / 2) / math.log1p(-threshold))


def needed_groups(threshold: float, confidence: float) -> int | None:
    """Groups of facts that can show a share of at most ``threshold``, and of which there is an interval at all.

    Args:
        threshold: Largest allowed share.
        confidence: Level of the two-sided interval.

    Returns:
        The larger of :func:`least_groups` and :data:`MIN_GROUPS`; ``None`` for a threshold of zero.
    """
    least = least_groups(threshold, confidence)
    return None if least is None else max(MIN_GROUPS, least)


def least_limit(groups: int, confidence: float) -> float | None:
    """The smallest limit, in whole hundredths, that so many groups of facts can show: see :func:`least_groups`.

    Args:
        groups: Independent groups of facts.
        confidence: Level of the two-sided interval.

    Returns:
        The limit; ``None`` with fewer groups than :data:`MIN_GROUPS`, of which there is no interval at all.
    """
    if groups < MIN_GROUPS:
        return None
    hundredths = range(1, 101)
    return next(part / 100 for part in hundredths if (least_groups(part / 100, confidence) or math.inf) <= groups)


class _Sample:
    """Scores of several models on the same facts, summed by group.

    Attributes:
        facts: Number of facts.
        groups: Number of groups.
        means: Mean over facts, one per model.
        problem: Why no interval can be given; empty where it can.
    """

    def __init__(self, models: Sequence[FactScores]) -> None:
        first = models[0]
        if any(model.values.keys() != first.values.keys() for model in models):
            raise ValueError("paired scores must be about the same facts")
        if not first.values:
            raise ValueError("there are no facts")
        facts = sorted(first.values)
        names = {group: index for index, group in enumerate(sorted({first.groups[fact] for fact in facts}))}
        group_of = np.array([names[first.groups[fact]] for fact in facts])
        table = np.array([[*(model.values[fact] for model in models), 1.0] for fact in facts], dtype=np.float64)
        self._sums = np.zeros((len(names), len(models) + 1))
        np.add.at(self._sums, group_of, table)
        self.facts, self.groups = len(facts), len(names)
        self.means: NDArray[np.float64] = table[:, :-1].mean(axis=0)
        self.problem = ""
        if not np.isfinite(table).all():
            self.problem = "a score is not a finite number"
        elif self.groups < MIN_GROUPS:
            self.problem = f"there are only {self.groups} groups of facts and an interval needs {MIN_GROUPS}"

    def resample(self, settings: Bootstrap) -> NDArray[np.float64]:
        """Means of resampled groups, shape [draws, models]."""
        counts = group_counts(self.groups, settings.draws, settings.seed)
        parts = [
            counts[start : start + _CHUNK].astype(np.float64) @ self._sums for start in range(0, len(counts), _CHUNK)
        ]
        sums = np.concatenate(parts)
        return sums[:, :-1] / sums[:, -1:]

    def weighted(self, settings: Bootstrap, added: Sequence[float]) -> NDArray[np.float64]:
        """Means of groups with random Dirichlet weights and one more group, shape [draws, models].

        The added group is as large as that of a fact drawn at random: an average group is too small a stand-in where
        sizes differ.

        Args:
            settings: Draws and seed.
            added: Mean score of the added group, one per model.
        """
        sizes = self._sums[:, -1]
        size = float((sizes**2).sum() / sizes.sum())
        rows = np.vstack([self._sums, [*(size * value for value in added), size]])
        weights = group_weights(self.groups + 1, settings.draws, settings.seed)
        parts = [weights[start : start + _CHUNK].astype(np.float64) @ rows for start in range(0, len(weights), _CHUNK)]
        sums = np.concatenate(parts)
        return sums[:, :-1] / sums[:, -1:]


@dataclass(frozen=True)
class _Draws:
    """Point means [models] and resampled means [draws, models], the compared model last."""

    means: NDArray[np.float64]
    draws: NDArray[np.float64]
    facts: int
    groups: int

    def estimate(self, value: float, draws: NDArray[np.float64], settings: Bootstrap) -> Estimate:
        """``value`` with the interval of its draws."""
        low, high = expanded_percentiles(draws, self.groups, settings.confidence)
        return Estimate(float(value), low, high, self.facts, self.groups)


def _joint_draws(
    models: Sequence[FactScores], other: FactScores, settings: Bootstrap, *, paired: bool
) -> _Draws | Estimate:
    """Draws of ``models`` and ``other``; an undefined estimate where there are none."""
    if paired:
        sample = _Sample([*models, other])
        if sample.problem:
            return Estimate(None, None, None, sample.facts, sample.groups, sample.problem)
        return _Draws(sample.means, sample.resample(settings), sample.facts, sample.groups)
    sample, apart = _Sample(models), _Sample([other])
    problem = sample.problem or apart.problem
    groups = min(sample.groups, apart.groups)
    if problem:
        return Estimate(None, None, None, sample.facts, groups, problem)
    elsewhere = Bootstrap(settings.draws, settings.confidence, settings.seed + 1)
    draws = np.hstack([sample.resample(settings), apart.resample(elsewhere)])
    return _Draws(np.concatenate([sample.means, apart.means]), draws, sample.facts, groups)


def _ratio(
    joint: _Draws | Estimate,
    settings: Bootstrap,
    *,
    numerator: Sequence[float],
    denominator: Sequence[float],
    nothing: str,
) -> Drawn:
    """Ratio of two linear combinations of means; undefined where the denominator's interval touches zero."""
    if isinstance(joint, Estimate):
        return Drawn(joint)
    above, below = joint.draws @ np.array(numerator), joint.draws @ np.array(denominator)
    value = float(joint.means @ np.array(denominator))
    if value <= 0 or expanded_percentiles(below, joint.groups, settings.confidence)[0] <= 0:
        return Drawn(Estimate(None, None, None, joint.facts, joint.groups, nothing))
    # The few draws beyond that interval in which the denominator vanishes count as infinite: they can only widen.
    safe = np.where(below > 0, below, 1.0)
    ratio = np.where(below > 0, above / safe, np.inf)
    low, high = expanded_percentiles(ratio, joint.groups, settings.confidence)
    if not math.isfinite(high):
        return Drawn(Estimate(None, None, None, joint.facts, joint.groups, nothing))
    share = float(joint.means @ np.array(numerator)) / value
    error = float(ratio[np.isfinite(ratio)].std())
    return Drawn(Estimate(share, low, high, joint.facts, joint.groups, error=error), ratio)


@lru_cache(maxsize=4)
def group_counts(groups: int, draws: int, seed: int) -> NDArray[np.uint16]:
    """How often each group was drawn, shape [draws, groups]: the same for all scores of a run, so made once."""
    generator = np.random.default_rng(seed)
    counts = np.empty((draws, groups), dtype=np.uint16)
    for draw in range(draws):
        counts[draw] = np.bincount(generator.integers(groups, size=groups), minlength=groups)
    counts.setflags(write=False)
    return counts


@lru_cache(maxsize=2)
def group_weights(groups: int, draws: int, seed: int) -> NDArray[np.float32]:
    """Weights of each group, proportional to a flat Dirichlet draw, shape [draws, groups]; made once for a run."""
    weights = np.random.default_rng(seed).standard_exponential((draws, groups), dtype=np.float32)
    weights.setflags(write=False)
    return weights


def expanded_percentiles(draws: NDArray[np.float64], groups: int, confidence: float) -> tuple[float, float]:
    """Both ends of the expanded percentile interval."""
    widened = math.sqrt(groups / (groups - 1)) * t_quantile((1 + confidence) / 2, groups - 1)
    tail = NormalDist().cdf(-widened)
    # Not interpolated: an infinite draw must not turn a finite end into "not a number".
    low = np.quantile(draws, tail, method="lower")
    high = np.quantile(draws, 1 - tail, method="higher")
    return float(low), float(high)


@lru_cache(maxsize=1024)
def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t.

    Args:
        probability: Between 0 and 1.
        freedom: Degrees of freedom.

    Returns:
        The quantile.
    """
    # What scipy.stats.t.ppf calls; importing scipy.stats takes three times as long.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))
