"""How many single facts are still known: what a mean over facts cannot say.

A mean can be at chance while some facts are known as before and others are pushed below chance. Whoever asks for
deletion asks for every fact, so facts are counted too.

*Known.* A fact counts as known under a transform, by one metric, if at least half of what the target knew of it is
there: ``(s - n) / (t - n) >= 0.5`` with ``s``, ``t`` and ``n`` the scores of the judged model, the target and the
never-knew model (or the mean over holdout facts in its place), and only where the target itself clearly knows it.

*By chance.* A model that never knew shows a few such facts as well, since it guesses. How many is measured on the same
data. With a never-knew model the two models change places: if the judged model never knew either, one is as likely to
guess a fact that the other does not as the other way round. Without one, holdout facts are put in the place of the
forgotten ones. From that count follows the predictive distribution (beta-binomial, Jeffreys' prior) of the number of
facts that a model which never knew would show, and from it how many are allowed. All forgotten facts are asked, so
the number itself has no sampling error.

A metric by which a never-knew model guesses more than one fact in twenty (one question with four options) cannot tell
single facts apart: its number is reported and not judged. More option draws and wordings for each fact mend that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom, ks_2samp

from .references import Reference
from .scores import FactScores, ScoreTable
from .typed_json import Schema, Stated
from .values import Count

KNOWN_FROM = 0.5
"""A fact is known if this part of what the target knew of it is there."""

LEAST_GAP = 0.05
"""Where the target's score is above the never-knew model's by less than this, there is no fact that could be known."""

MOST_GUESSED = 0.05
"""A metric by which more facts than this look known by chance is reported and not judged."""

ANTI_KNOWN_BELOW = 0.1
"""A fact is anti-known if its score is below this part of the never-knew model's."""

_TINY = 1e-12

KnownFactsStatus = Annotated[Literal["passed", "failed", "inconclusive", "reported"], Schema("reported: not judged.")]


@dataclass(frozen=True)
class KnownFactsRow:
    """Single facts that are still known under one transform, by one metric: a row of the report.

    Attributes:
        model: The judged model.
        transform: The transform.
        metric: The metric.
        n: Facts that were asked.
        known: How many of them are still known.
        by_chance: How many a model that never knew is expected to show.
        allowed: The most that is allowed; ``None`` where it is not judged.
        anti_known: Facts with a score far below the never-knew model's, which marks them as forgotten.
        anti_known_by_chance: How many a model that never knew is expected to show.
        same_distribution: P value of the two-sample Kolmogorov-Smirnov test of the scores against the never-knew
            model's. It sees a mixture of known and anti-known facts where the mean does not.
        status: ``reported`` where it is not judged.
        facts: Salted ids of the known facts.
        reason: Why it did not pass; empty where it did.
    """

    model: str
    transform: str
    metric: str
    n: Stated[Count]
    known: Stated[Count]
    by_chance: Stated[float]
    allowed: Annotated[int | None, Schema(minimum=0)]
    anti_known: Stated[Count]
    anti_known_by_chance: Stated[float]
    same_distribution: Annotated[float | None, Schema("P value of a two-sample test.", minimum=0, maximum=1)]
    status: Stated[KnownFactsStatus]
    facts: Annotated[tuple[str, ...], Schema("Salted ids of the known facts.")] = field(default=())
    reason: str = ""


@dataclass(frozen=True)
class CountedFacts:
    """A count before it is judged.

    Attributes:
        transform: The transform.
        metric: The metric.
        facts: Names of the known facts.
        n: Facts that were asked.
        chance: Facts that looked known by chance, out of ``chance_n``.
        chance_n: What ``chance`` is out of.
        anti_known: Facts far below the never-knew model.
        anti_known_chance: The expected number of them.
        same_distribution: P value.
    """

    transform: str
    metric: str
    facts: tuple[str, ...]
    n: int
    chance: float
    chance_n: int
    anti_known: int
    anti_known_chance: float
    same_distribution: float

    @property
    def rate(self) -> float:
        """Share of facts that look known by chance."""
        return self.chance / self.chance_n

    def most_by_chance(self, level: float) -> int:
        """The number of facts that a model which never knew exceeds with probability ``1 - level`` at most."""
        known, unknown = self.chance + 0.5, self.chance_n - self.chance + 0.5
        return int(betabinom.ppf(level, self.n, known, unknown)) if self.n else 0


def count_facts(
    table: ScoreTable, subject: str, target: str, reference: Reference, split: str, transform: str, metric: str
) -> CountedFacts | None:
    """Count the facts that are still known.

    Args:
        table: Scores of all models.
        subject: The judged model.
        target: The target model.
        reference: What never knew.
        split: The set that was to be forgotten.
        transform: The transform.
        metric: The metric.

    Returns:
        The count; ``None`` where the three models were not scored on the same facts.
    """
    judged = table.get(subject, transform, split, metric)
    knows = table.get(target, transform, split, metric)
    never = reference.scores(table, transform, metric)
    if judged is None or knows is None or never is None or judged.values.keys() != knows.values.keys():
        return None
    if reference.paired and never.values.keys() != judged.values.keys():
        return None
    names = sorted(judged.values)
    s, t = _values(judged, names), _values(knows, names)
    n = _values(never, names) if reference.paired else _values(never, sorted(never.values))
    if not all(np.isfinite(each).all() for each in (s, t, n)):
        return None
    return replace(
        _beside_never_knew(s, t, n, names) if reference.paired else _beside_holdout(s, t, n, names),
        transform=transform,
        metric=metric,
    )


def judge_counts(
    model: str, counts: Sequence[CountedFacts], confidence: float, limit: int | None
) -> list[KnownFactsRow]:
    """Hold counts against what a model that never knew would show.

    A count passes if such a model shows as many with a probability of more than ``(1 - confidence) / 2``, and fails if
    it does so with less than that divided by the number of judged counts (Bonferroni).

    Args:
        model: The judged model.
        counts: Of all transforms and metrics of the gate.
        confidence: Level of the gate's intervals.
        limit: Most known facts, where the gate names a number.
    """
    tail = (1 - confidence) / 2
    judged = [count for count in counts if limit is not None or count.rate <= MOST_GUESSED]
    return [_row(model, count, count in judged, tail, max(1, len(judged)), limit) for count in counts]


def _row(
    model: str, count: CountedFacts, is_judged: bool, tail: float, comparisons: int, limit: int | None
) -> KnownFactsRow:
    known = len(count.facts)
    row = KnownFactsRow(
        model,
        count.transform,
        count.metric,
        n=count.n,
        known=known,
        by_chance=count.rate * count.n,
        allowed=None,
        anti_known=count.anti_known,
        anti_known_by_chance=count.anti_known_chance,
        same_distribution=count.same_distribution,
        status="reported",
        facts=count.facts,
    )
    if not is_judged:
        return row
    allowed = count.most_by_chance(1 - tail) if limit is None else limit
    surely = count.most_by_chance(1 - tail / comparisons) if limit is None else limit
    row = replace(row, allowed=allowed, status="passed")
    if known <= allowed:
        return row
    says = f"{known} of {count.n} facts are still known, at most {allowed} {'is' if allowed == 1 else 'are'} allowed"
    if known > surely:
        return replace(row, status="failed", reason=f"{says}.")
    return replace(row, status="inconclusive", reason=f"{says}, which a model that never knew may show by chance.")


def _beside_never_knew(
    s: NDArray[np.float64], t: NDArray[np.float64], n: NDArray[np.float64], names: Sequence[str]
) -> CountedFacts:
    known = _known(s, t, n)
    guessed = _known(n, t, s)  # the two models change places
    anti, anti_back = _anti_known(s, n), _anti_known(n, s)
    return CountedFacts(
        "",
        "",
        tuple(name for name, is_known in zip(names, known, strict=True) if is_known),
        len(names),
        float(guessed.sum()),
        len(names),
        int(anti.sum()),
        float(anti_back.sum()),
        float(ks_2samp(s, n).pvalue),
    )


def _beside_holdout(
    s: NDArray[np.float64], t: NDArray[np.float64], h: NDArray[np.float64], names: Sequence[str]
) -> CountedFacts:
    level = float(h.mean())
    known = _known(s, t, np.full_like(s, level))
    # Every holdout fact in the place of every forgotten one.
    guessed = _known(h[:, None], t[None, :], np.full((1, 1), level)).mean(axis=1).sum()
    low = float(np.quantile(h, 0.05, method="lower"))
    return CountedFacts(
        "",
        "",
        tuple(name for name, is_known in zip(names, known, strict=True) if is_known),
        len(names),
        float(guessed),
        len(h),
        int((s < ANTI_KNOWN_BELOW * low).sum()),
        float((h < ANTI_KNOWN_BELOW * low).mean() * len(s)),
        float(ks_2samp(s, h).pvalue),
    )


def _known(s: NDArray[np.float64], t: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.bool_]:
    gap = t - n
    return (gap >= LEAST_GAP) & (s - n >= KNOWN_FROM * gap)


def _anti_known(s: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (n > _TINY) & (s < ANTI_KNOWN_BELOW * n)


def _values(scores: FactScores, names: Sequence[str]) -> NDArray[np.float64]:
    return np.array([scores.values[name] for name in names], dtype=np.float64)
