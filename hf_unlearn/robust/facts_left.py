"""Which facts a model still knows, fact by fact, from looks at their right answers and at false ones."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean

FALSE_SHARE = 0.2
"""Of the single facts that are found, on average at most this share is not known."""
MANY_ERROR = 0.05
"""How often it is found that many facts have a little left, if none has."""
MEMORY = 0.5
"""What earlier looks at a fact count, all of them together, in its pooled values."""
LEAST_RANK = 0.05
"""A fact whose right answer is less likely than this share of false ones is below chance."""
NEGLIGIBLE = 0.01
"""A score that is not above this is not above 0."""
MOST_FALSE = 4096
"""Scores of false pairs that are kept, the latest."""


@dataclass(frozen=True)
class Seen:
    """What one look says of a fact.

    Attributes:
        score: How much more likely the right answer is after its own question than after others, in units of what
            false pairs differ by.
        rank: Share of the false pairs whose answer is less likely than this one, from 0 to 1.
        look: Number of the latest look at the fact.
    """

    score: float
    rank: float
    look: int = 0


@dataclass
class FactsLeft:
    r"""Scores of single facts, pooled over looks, and what follows from all of them.

    If no question reveals its answer, right pairs of question and answer are like false ones, whatever the
    distribution of their scores. So the p-value of a fact is the share of false pairs that score as high. Looks at one
    fact are pooled, :math:`\bar z \leftarrow m \bar z + (1 - m) z` with :math:`m` = :data:`MEMORY`. They depend on
    each other in a way that nobody knows, but a mean of scores has no wider distribution than one of them, so the
    p-value of a pooled score is too large if anything.

    Two questions find what is left. Facts below chance cannot pay for others in the first, and hardly in the second,
    because no score says how far below chance a fact is:

    * Is a single fact known? Found are those of the procedure of Benjamini and Hochberg (1995) at
      :data:`FALSE_SHARE`.
    * Do many facts have a little left? If the mean score of the facts of a look, pooled over looks in the same way, is
      above what chance reaches in :data:`MANY_ERROR` of cases, all facts with a score above 0 are left.

    If nothing is left, the first one finds something in at most :data:`FALSE_SHARE` of looks. A fact that was never
    looked at counts as left.

    Attributes:
        count: Number of facts; they are named by their positions, from 0.
        pooled: By fact, as far as they were looked at.
        false: Scores of false pairs.
        looks: How many there were.
        mean: Pooled mean score of a look's facts.
        by_chance: What chance rarely exceeds in the mean of as many facts as the latest look had.
    """

    count: int
    pooled: dict[int, Seen] = field(default_factory=dict)
    false: list[float] = field(default_factory=list)
    looks: int = 0
    mean: float = 0.0
    by_chance: float = 0.0

    def add(self, found: Mapping[int, Seen], false: Sequence[float]) -> None:
        """Pools a further look.

        Args:
            found: By fact, at least one.
            false: Scores of the look's false pairs.
        """
        for number, now in found.items():
            before = self.pooled.get(number, now)
            self.pooled[number] = Seen(_pooled(before.score, now.score), _pooled(before.rank, now.rank), self.looks)
        mean = fmean(seen.score for seen in found.values())
        self.mean = _pooled(self.mean, mean) if self.looks else mean
        self.by_chance = NormalDist().inv_cdf(1 - MANY_ERROR) / math.sqrt(len(found))
        self.false = [*self.false, *false][-MOST_FALSE:]
        self.looks += 1

    @property
    def left(self) -> frozenset[int]:
        """Facts that are still known, as far as that can be told from chance."""
        never_seen = frozenset(range(self.count)) - self.pooled.keys()
        return never_seen | self._single() | self._many()

    def _single(self) -> frozenset[int]:
        false = sorted(self.false)
        p_values = {
            number: (1 + len(false) - bisect_left(false, seen.score)) / (1 + len(false))
            for number, seen in self.pooled.items()
        }
        return discoveries(p_values, FALSE_SHARE)

    def _many(self) -> frozenset[int]:
        if self.mean <= self.by_chance:
            return frozenset()
        return frozenset(number for number, seen in self.pooled.items() if seen.score > NEGLIGIBLE)

    @property
    def below(self) -> frozenset[int]:
        """Facts whose right answer is less likely than nearly all false ones (:data:`LEAST_RANK`)."""
        return frozenset(number for number, seen in self.pooled.items() if seen.rank < LEAST_RANK)

    @property
    def weights(self) -> dict[int, float]:
        """What unlearning is on, with the weight of each fact.

        What is left counts with the square of its score: a fact that is known well is lowered least by gradient
        ascent, whose gradient at a label is in proportion to one minus its probability, so it has to come more often.
        A fact that was never looked at counts as much as the others on average. If nothing is left, all facts count
        the same but those below chance.
        """
        left, every = self.left, frozenset(range(self.count))
        if not left:
            return dict.fromkeys(sorted(every - self.below or every), 1.0)
        squares = {number: max(NEGLIGIBLE, self.pooled[number].score) ** 2 for number in left & self.pooled.keys()}
        usual = fmean(squares.values()) if squares else 1.0
        return {number: squares.get(number, usual) for number in sorted(left)}


def _pooled(before: float, now: float) -> float:
    return MEMORY * before + (1 - MEMORY) * now


def discoveries(p_values: Mapping[int, float], share: float) -> frozenset[int]:
    """The procedure of Benjamini and Hochberg: on average at most ``share`` of what it finds is false.

    Args:
        p_values: By fact.
        share: The false discovery rate.
    """
    order = sorted(p_values, key=lambda number: (p_values[number], number))
    found = [rank for rank, number in enumerate(order, start=1) if p_values[number] <= share * rank / len(order)]
    return frozenset(order[: max(found, default=0)])
