"""How well a score separates two sets: area under the ROC curve and true positives at few false ones.

Intervals resample whole groups of facts, members and others separately, and are expanded percentile
intervals as everywhere (:mod:`hf_unlearn.verification.intervals`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...verification.intervals import MIN_GROUPS, Bootstrap, expanded_percentiles, group_counts
from ...verification.scores import FactScores

_CHUNK = 256
_Floats = NDArray[np.float64]


class TwoSets:
    """Values of two sets of facts, and their resamples.

    Args:
        members: One value per fact; a **lower** one is stronger evidence that the fact is a member.
        others: One value per fact that is not a member.
        settings: How intervals are made. Two pairs of sets with the same facts draw the same resamples.
    """

    def __init__(self, members: FactScores, others: FactScores, settings: Bootstrap) -> None:
        self.settings = settings
        self._members, self._others = _Side(members), _Side(others)
        self.n = len(members.values) + len(others.values)
        self.groups = min(self._members.groups, self._others.groups)

    def auc(self) -> float:
        """Probability that a member's value is below that of another fact; ties count one half."""
        from sklearn.metrics import roc_auc_score

        labels = np.repeat([0, 1], [self._members.values.size, self._others.values.size])
        return float(roc_auc_score(labels, np.concatenate([self._members.values, self._others.values])))

    def tpr(self, fpr: float) -> float:
        """Largest share of members found by any threshold that takes at most a share ``fpr`` of others for members."""
        from sklearn.metrics import roc_curve

        labels = np.repeat([1, 0], [self._members.values.size, self._others.values.size])
        scores = -np.concatenate([self._members.values, self._others.values])
        false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
        return float(true[false <= fpr].max())

    def auc_draws(self) -> _Floats | None:
        """AUC of every resample, shape [draws]; ``None`` with fewer than 10 groups in a set."""
        if self.groups < MIN_GROUPS:
            return None
        below = _wins(self._members, self._others)
        draws = []
        for ours, theirs in self._counts():
            wins = ((ours @ below) * theirs).sum(axis=1)
            draws.append(wins / ((ours @ self._members.sizes) * (theirs @ self._others.sizes)))
        return np.concatenate(draws)

    def auc_interval(self) -> tuple[float, float] | None:
        """95 % interval of the AUC.

        Sets that do not overlap at all do so in every resample too. The bound is then that of as many independent
        pairs of a member and another fact as there are groups: all in the right order, with a chance of at least
        2.5 %.
        """
        draws = self.auc_draws()
        if draws is None:
            return None
        low, high = expanded_percentiles(draws, self.groups, self.settings.confidence)
        bound = ((1 - self.settings.confidence) / 2) ** (1 / self.groups)
        value = self.auc()
        low, high = min(low, bound) if value == 1 else low, max(high, 1 - bound) if value == 0 else high
        return max(0.0, low), min(1.0, high)

    def tpr_interval(self, fpr: float) -> tuple[float, float] | None:
        """95 % interval of :meth:`tpr`; ``None`` with fewer than 10 groups in a set."""
        if self.groups < MIN_GROUPS:
            return None
        draws = np.concatenate([self._tpr_of(ours, theirs, fpr) for ours, theirs in self._counts()])
        return expanded_percentiles(draws, self.groups, self.settings.confidence)

    def _counts(self) -> Iterator[tuple[_Floats, _Floats]]:
        """How often each group was drawn, members' and others', a few resamples at a time."""
        ours = group_counts(self._members.groups, self.settings.draws, self.settings.seed)
        theirs = group_counts(self._others.groups, self.settings.draws, self.settings.seed + 1)
        for start in range(0, self.settings.draws, _CHUNK):
            part = slice(start, start + _CHUNK)
            yield ours[part].astype(np.float64), theirs[part].astype(np.float64)

    def _tpr_of(self, ours: _Floats, theirs: _Floats, fpr: float) -> _Floats:
        """TPR of each resample: the members up to the last value at which not too many others are counted."""
        values = np.unique(np.concatenate([self._members.values, self._others.values]))
        found = self._members.cumulative(ours, values)
        false = self._others.cumulative(theirs, values)
        # A share of others grows with the threshold, so thresholds that may be used come first.
        usable = (false <= fpr).sum(axis=1)
        padded = np.concatenate([np.zeros((len(found), 1)), found], axis=1)
        return padded[np.arange(len(found)), usable]


class _Side:
    """One set: values, and the group of each."""

    def __init__(self, scores: FactScores) -> None:
        facts = sorted(scores.values)
        names = {name: place for place, name in enumerate(sorted({scores.groups[fact] for fact in facts}))}
        self.groups = len(names)
        self.values: _Floats = np.array([scores.values[fact] for fact in facts], dtype=np.float64)
        self.group_of = np.array([names[scores.groups[fact]] for fact in facts])
        self.sizes: _Floats = np.bincount(self.group_of, minlength=self.groups).astype(np.float64)

    def cumulative(self, counts: _Floats, thresholds: _Floats) -> _Floats:
        """Share of resampled facts at or below each threshold, shape [draws, thresholds]."""
        weights = counts[:, self.group_of]
        order = np.argsort(self.values, kind="stable")
        running = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(weights[:, order], axis=1)], axis=1)
        sums = running[:, np.searchsorted(self.values[order], thresholds, side="right")]
        return sums / weights.sum(axis=1, keepdims=True)


def _wins(members: _Side, others: _Side) -> _Floats:
    """Pairs in which the member is below the other fact (ties one half), shape [groups of members, of others]."""
    table = np.zeros((members.groups, others.groups))
    for value, group in zip(members.values, members.group_of, strict=True):
        won = (value < others.values) + 0.5 * (value == others.values)
        table[group] += np.bincount(others.group_of, weights=won, minlength=others.groups)
    return table
