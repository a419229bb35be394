"""How many single facts are still known: what a mean over facts cannot say.

A mean can be at chance while some facts are known as before and others are pushed below chance. Whoever asks for
deletion asks for every fact, so facts are counted too.

*Known.* A fact counts as known under a transform, by one metric, if at least half of what the target knew of it is
there: ``(s - n) / (t - n) >= 0.5`` with ``s``, ``t`` and ``n`` the scores of the judged model, the target and the
never-knew model (or the mean over holdout facts in its place), and only where the target itself clearly knows it.

*Combined.* One score is one draw: a fact may be guessed by one question or in one wording. So a fact's parts are also
averaged over the gate's metrics and, as the model stands, over the wordings it was asked in. A guess seldom repeats
itself, knowledge does.

*By chance.* A model that never knew shows a few such facts as well, since it guesses. How many is measured on the same
data. With a never-knew model the two models change places: if the judged model never knew either, one is as likely to
guess a fact that the other does not as the other way round. Without one, holdout facts are put in the place of the
forgotten ones. From that count follows the predictive distribution (beta-binomial, Jeffreys' prior) of the number of
facts that a model which never knew would show, and from it how many are allowed for a pass. All forgotten facts are
asked, so the number itself has no sampling error.

*Failing.* Known facts weigh as the square of how much of them is there, and their weight is held against what
exchanges of the two models (or of facts) give, over all judged counts together
(:mod:`~hf_unlearn.verification.exchange`).

A metric by which a never-knew model guesses more than one fact in twenty cannot tell single facts apart: a small
number there is reported and is no pass. One by which it guesses more than one in ten (one question with four options)
does not fail either. More option draws and wordings for each fact mend that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from .exchange import Sums, by_chance, same_distribution, sums_by_group
from .intervals import Bootstrap
from .references import Reference
from .scores import FactScores, ScoreTable
from .typed_json import Schema, Stated
from .values import Count

KNOWN_FROM = 0.5
"""A fact is known if this part of what the target knew of it is there."""

LEAST_GAP = 0.05
"""Where the target's score is above the never-knew model's by less than this, there is no fact that could be known."""

MOST_GUESSED = 0.05
"""A metric by which a larger part of the facts looks known by chance is reported, unless it fails."""

MOST_GUESSED_TO_FAIL = 0.10
"""One by which still more look known fails nothing: a little of every fact, which is allowed, adds to these."""

ANTI_KNOWN_BELOW = 0.1
"""A fact is anti-known if its score is below this part of the never-knew model's."""

COMBINED = "combined"
"""In place of a metric: all metrics, and all wordings, of each fact together."""

COMBINED_COMES_FIRST = 1.15
"""Scales up the excess of combined counts among all: they see most, and there are fewer of them."""

MOST_EXCHANGES = 1_000
"""For what is only reported."""

_TINY = 1e-12

KnownFactsStatus = Annotated[Literal["passed", "failed", "inconclusive", "reported"], Schema("reported: not judged.")]
_PValue = Annotated[float | None, Schema(minimum=0, maximum=1, stated=True, required=False)]


@dataclass(frozen=True)
class KnownFactsRow:
    """Single facts that are still known under one transform, by one metric or all combined: a row of the report.

    Attributes:
        model: The judged model.
        transform: The transform.
        metric: The metric; ``combined`` for all metrics together.
        n: Facts that were asked.
        known: How many of them are still known.
        by_chance: How many a model that never knew is expected to show.
        allowed: The most with which it passes; ``None`` where a pass would say nothing.
        anti_known: Facts with a score far below the never-knew model's, which marks them as forgotten.
        anti_known_by_chance: How many a model that never knew is expected to show.
        same_distribution: P value of the two-sample Anderson-Darling test of the scores against the never-knew
            model's. It sees a mixture of known and anti-known facts where the mean does not. (In the oldest reports
            that of a Kolmogorov-Smirnov test.)
        status: ``reported`` where it is not judged.
        facts: Salted ids of the known facts.
        reason: Why it did not pass; empty where it did.
        known_p: P value of the known facts, over all judged counts together.
        anti_known_p: P value of the anti-known facts, of this count alone.
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
    known_p: _PValue = None
    anti_known_p: _PValue = None


@dataclass(frozen=True)
class Asked:
    """What some facts were asked: the scores of the three models, a column per metric (and wording).

    Attributes:
        names: Facts of the forget set.
        groups: Their groups.
        judged: The judged model's scores ``[facts, columns]``; not a number where one was not measured.
        target: The target's.
        never: The never-knew model's, or those of holdout facts ``[others, columns]``.
        never_groups: Groups of those holdout facts; ``None`` for the same facts.
        never_names: Names of those holdout facts.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    judged: NDArray[np.float64]
    target: NDArray[np.float64]
    never: NDArray[np.float64]
    never_groups: tuple[str, ...] | None
    never_names: tuple[str, ...] = ()


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
        weights: What known facts weigh, and those that look known by chance.
        asked: The scores themselves.
    """

    transform: str
    metric: str
    facts: tuple[str, ...]
    n: int
    chance: float
    chance_n: int
    anti_known: int
    anti_known_chance: float
    weights: Sums
    asked: Asked

    @property
    def rate(self) -> float:
        """Share of facts that look known by chance."""
        return self.chance / self.chance_n

    def most_by_chance(self, level: float) -> int:
        """The number of facts that a model which never knew exceeds with probability ``1 - level`` at most."""
        from scipy.stats import betabinom

        known, unknown = self.chance + 0.5, self.chance_n - self.chance + 0.5
        return int(betabinom.ppf(level, self.n, known, unknown)) if self.n else 0


def ask(
    table: ScoreTable, subject: str, target: str, reference: Reference, split: str, transform: str, metric: str
) -> Asked | None:
    """The scores of the three models under one transform by one metric.

    Args:
        table: Scores of all models.
        subject: The judged model.
        target: The target model.
        reference: What never knew.
        split: The set that was to be forgotten.
        transform: The transform.
        metric: The metric.

    Returns:
        The scores in one column; ``None`` where the three models were not scored on the same facts.
    """
    judged = table.get(subject, transform, split, metric)
    knows = table.get(target, transform, split, metric)
    never = reference.scores(table, transform, metric)
    if judged is None or knows is None or never is None or judged.values.keys() != knows.values.keys():
        return None
    if not judged.values or not never.values:
        return None
    if reference.paired and never.values.keys() != judged.values.keys():
        return None
    names = tuple(sorted(judged.values))
    others = names if reference.paired else tuple(sorted(never.values))
    s, t, n = _values(judged, names), _values(knows, names), _values(never, others)
    if not all(np.isfinite(each).all() for each in (s, t, n)):
        return None
    groups = tuple(judged.groups[name] for name in names)
    if reference.paired:
        return Asked(names, groups, s, t, n, None)
    return Asked(names, groups, s, t, n, tuple(never.groups[name] for name in others), others)


def combine(asked: Sequence[Asked]) -> Asked | None:
    """Several columns of the same facts beside each other.

    Args:
        asked: By several metrics, and in several wordings; all beside the never-knew model, or none.

    Returns:
        All columns; ``None`` where there are not at least two.
    """
    if len(asked) < 2:
        return None
    groups = {name: group for each in asked for name, group in zip(each.names, each.groups, strict=True)}
    names = tuple(sorted(groups))
    judged, target = (
        np.hstack([_placed(getattr(each, side), each.names, names) for each in asked]) for side in ("judged", "target")
    )
    own = tuple(groups[name] for name in names)
    others = {
        name: group for each in asked for name, group in zip(each.never_names, each.never_groups or (), strict=True)
    }
    order = tuple(sorted(others)) or names
    never = np.hstack([_placed(each.never, each.never_names or each.names, order) for each in asked])
    if not others:
        return Asked(names, own, judged, target, never, None)
    return Asked(names, own, judged, target, never, tuple(others[name] for name in order), order)


def count_facts(asked: Asked, transform: str, metric: str) -> CountedFacts:
    """Count the facts that are still known.

    Args:
        asked: Scores of the three models.
        transform: The transform.
        metric: The metric, or :data:`COMBINED`.
    """
    if asked.never_groups is None:
        return _beside_never_knew(asked, transform, metric)
    return _beside_holdout(asked, asked.never_groups, transform, metric)


def judge_counts(
    model: str, counts: Sequence[CountedFacts], limit: int | None, settings: Bootstrap
) -> list[KnownFactsRow]:
    """Hold counts against what a model that never knew would show.

    A count passes if such a model shows as many with a probability of more than ``(1 - confidence) / 2``, and fails if
    exchanges give as much with less than that over all counts together.

    Args:
        model: The judged model.
        counts: Of all transforms and metrics of the gate.
        limit: Most known facts, where the gate names a number.
        settings: Level, draws and seed.
    """
    importance = [COMBINED_COMES_FIRST if count.metric == COMBINED else 1.0 for count in counts]
    chance = by_chance([count.weights for count in counts], settings.draws, settings.seed, importance)
    return [
        _row(model, count, float(p), len(counts), limit, settings)
        for count, p in zip(counts, chance.joint, strict=True)
    ]


def _row(
    model: str, count: CountedFacts, p: float, comparisons: int, limit: int | None, settings: Bootstrap
) -> KnownFactsRow:
    known, asked, tail = len(count.facts), count.asked, (1 - settings.confidence) / 2
    few = min(settings.draws, MOST_EXCHANGES)
    scores = [_mean_of(side) for side in (asked.judged, asked.never)]
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
        same_distribution=same_distribution(
            scores[0], asked.groups, scores[1], asked.never_groups, few, settings.seed
        ),
        status="reported",
        facts=count.facts,
        known_p=p,
        anti_known_p=_anti_known_p(asked, replace(settings, draws=few)),
    )
    says = f"{known} of {count.n} facts are still known"
    if limit is not None:
        row = replace(row, allowed=limit)
        if known <= limit:
            return replace(row, status="passed")
        return replace(row, status="failed", reason=f"{says}, at most {limit} {_are(limit)} allowed.")
    if count.rate <= MOST_GUESSED:
        row = replace(row, allowed=count.most_by_chance(1 - tail), status="passed")
    if p <= tail and count.rate <= MOST_GUESSED_TO_FAIL:
        expected, over = f"{count.rate * count.n:.1f}", f" over all {comparisons} counts" if comparisons > 1 else ""
        return replace(
            row,
            status="failed",
            reason=f"{says}, a model that never knew shows {expected} (p = {p:.2g}{over}).",
        )
    if row.allowed is None or known <= row.allowed:
        return row
    return replace(
        row,
        status="inconclusive",
        reason=f"{says}, at most {row.allowed} {_are(row.allowed)} allowed, which a model that never knew may show by "
        "chance.",
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _beside_never_knew(asked: Asked, transform: str, metric: str) -> CountedFacts:
    s, t, n = asked.judged, asked.target, asked.never
    there, guessed = _part(s, t, n), _part(n, t, s)  # the two models change places
    anti, anti_back = _anti_known_pairs(asked)
    return CountedFacts(
        transform,
        metric,
        _chosen(asked.names, there >= KNOWN_FROM),
        len(asked.names),
        float((guessed >= KNOWN_FROM).sum()),
        len(asked.names),
        int(anti.sum()),
        float(anti_back.sum()),
        sums_by_group(_weight(there), asked.groups, _weight(guessed)),
        asked,
    )


def _beside_holdout(asked: Asked, groups: Sequence[str], transform: str, metric: str) -> CountedFacts:
    s, t, h = asked.judged, asked.target, asked.never
    level = _level(h)
    there = _part(s, t, np.broadcast_to(level, s.shape))
    guessed = (_in_place_of(h, t, level) >= KNOWN_FROM).mean(axis=1).sum()
    # For the exchange nothing may tell the two sides apart, not even whose level it is.
    together = _level(np.vstack([s, h]))
    weights = [_weight(_in_place_of(side, t, together)).mean(axis=1) for side in (s, h)]
    low, _ = _low(h)
    return CountedFacts(
        transform,
        metric,
        _chosen(asked.names, there >= KNOWN_FROM),
        len(asked.names),
        float(guessed),
        len(h),
        int(_anti_known(s, low).sum()),
        float(_anti_known(h, low).mean() * len(s)),
        sums_by_group(weights[0], asked.groups, weights[1], groups),
        asked,
    )


def _chosen(names: Sequence[str], chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen)


def _anti_known_pairs(asked: Asked) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Facts that are anti-known in the judged model, and in the never-knew model with the two in each other's place.

    A fact that one of both knows lies far below it in the other one. That is no sign of pushing, so it does not count.
    """
    s, t, n = asked.judged, asked.target, asked.never
    known, lucky = _part(s, t, n) >= KNOWN_FROM, _part(n, t, s) >= KNOWN_FROM
    return _anti_known(s, n) & ~lucky, _anti_known(n, s) & ~known


def _anti_known_p(asked: Asked, settings: Bootstrap) -> float:
    """P value of the number of anti-known facts, one-sided.

    Beside a never-knew model the two change places. Beside holdout facts it is the probability that so many groups of
    forgotten facts lie below the one that is lowest but few among groups of holdout facts, which is beta-binomial
    whatever the distribution. Anti-known groups lie below a tenth of that, so the p value is rather too large.
    """
    if asked.never_groups is None:
        anti, back = (each.astype(np.float64) for each in _anti_known_pairs(asked))
        return float(by_chance([sums_by_group(anti, asked.groups, back)], settings.draws, settings.seed).own[0])
    from scipy.stats import betabinom

    s, h = _group_means(asked.judged, asked.groups), _group_means(asked.never, asked.never_groups)
    low, rank = _low(h)
    below = int(_anti_known(s, low).sum())
    return float(betabinom.sf(below - 1, len(s), rank, len(h) + 1 - rank))


def _low(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """A score that one in twenty lies below, of each column, and its rank from below."""
    rank = 1 + int(0.05 * (len(scores) - 1))
    return np.asarray(np.sort(scores, axis=0)[rank - 1]), rank  # what was not measured is sorted to the end


def _part(s: NDArray[np.float64], t: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of what the target knew is there, 0 to 1: mean over the columns that can tell ``[..., columns]``."""
    gap = t - n
    tells = (gap >= LEAST_GAP) & np.isfinite(s)
    part = np.where(tells, np.clip((s - n) / np.where(tells, gap, 1.0), 0.0, 1.0), 0.0)
    return np.asarray(part.sum(axis=-1) / np.maximum(tells.sum(axis=-1), 1))


def _in_place_of(
    facts: NDArray[np.float64], t: NDArray[np.float64], level: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much would be there, each of these facts in the place of each forgotten one: ``[facts, forgotten]``."""
    return _part(facts[:, None, :], t[None, :, :], np.broadcast_to(level, t.shape)[None, :, :])


def _weight(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a known fact weighs: a guess is rarely as sure as knowledge. Others weigh nothing."""
    return np.where(part >= KNOWN_FROM, part**2, 0.0)


def _anti_known(s: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a fact is far below in all columns that can tell."""
    tells = np.broadcast_to(n > _TINY, s.shape) & np.isfinite(s)
    return np.asarray(tells.any(axis=-1) & (~tells | (s < ANTI_KNOWN_BELOW * n)).all(axis=-1))


def _level(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each column."""
    return np.asarray(np.nanmean(scores, axis=0))


def _mean_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the columns of each fact, where it was measured."""
    return np.asarray(np.nanmean(scores, axis=1))


def _group_means(scores: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """Mean of each group in each column, ``[groups, columns]``."""
    _, places = np.unique(np.array(groups), return_inverse=True)
    sums, counts = (np.zeros((places.max() + 1, scores.shape[1])) for _ in range(2))
    measured = np.isfinite(scores)
    np.add.at(sums, places, np.where(measured, scores, 0.0))
    np.add.at(counts, places, measured)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _placed(scores: NDArray[np.float64], names: Sequence[str], wanted: Sequence[str]) -> NDArray[np.float64]:
    """Rows in another order; not a number for facts that are not among them."""
    places = {name: place for place, name in enumerate(wanted)}
    found = np.full((len(wanted), scores.shape[1]), np.nan)
    found[[places[name] for name in names]] = scores
    return found


def _values(scores: FactScores, names: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[scores.values[name]] for name in names], dtype=np.float64)
