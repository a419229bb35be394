"""What chance makes of single facts, by letting those that should be alike change places.

If the judged model never knew, it and the never-knew model are two draws of the same thing: for every fact their
scores could as well have come the other way round. Without a never-knew model the same holds for facts: a forgotten
fact and a holdout fact could change places. So the null distribution of *any* number is made by drawing such exchanges
at random, group by group, and counting again. That is exact: it assumes nothing of how scores are distributed, of how
metrics and formats depend on each other, or of facts within a group. A p value is the share of exchanges that give as
much.

Many numbers are judged together by the largest of them under each exchange (Westfall and Young, "Resampling-Based
Multiple Testing", 1993, in the single-step form): six formats that show the same facts count as one test, not as six.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 2_000_000
_PIECE = 512
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Sums:
    """One number per fact, summed by group, on both sides that may change places.

    Attributes:
        paired: Whether both sides are about the same facts: two models change places. Otherwise facts do.
        judged: Group to sum and number of facts, of the judged side.
        other: The same of what it is held against.
    """

    paired: bool
    judged: Mapping[str, tuple[float, int]]
    other: Mapping[str, tuple[float, int]]


def sums_by_group(
    judged: Sequence[float] | NDArray[np.float64],
    groups: Sequence[str],
    other: Sequence[float] | NDArray[np.float64],
    other_groups: Sequence[str] | None = None,
) -> Sums:
    """Sums of numbers per fact.

    Args:
        judged: One number per fact.
        groups: The group of each.
        other: Of the same facts, or of others.
        other_groups: The groups of those others; ``None`` for the same facts.
    """
    paired = other_groups is None
    return Sums(paired, _by_group(judged, groups), _by_group(other, groups if other_groups is None else other_groups))


@dataclass(frozen=True)
class Chance:
    """P values of some numbers, one-sided: how often exchanges give as much or more.

    Attributes:
        own: Of each by itself, ``[numbers]``.
        joint: How often the largest of all, each in units of its own spread, is as large, ``[numbers]``.
    """

    own: NDArray[np.float64]
    joint: NDArray[np.float64]


def by_chance(numbers: Sequence[Sums], draws: int, seed: int = 0, importance: Sequence[float] | None = None) -> Chance:
    """How likely the excess of the judged side is where both sides are alike.

    The excess is the difference of sums where two models change places, and of means where facts do.

    Args:
        numbers: What is judged together; all paired or none.
        draws: Random exchanges.
        seed: Of the exchanges.
        importance: By how much each number is scaled up before the largest is taken; all alike if left out. Whatever
            it is, the joint p values hold.
    """
    if not numbers:
        return Chance(np.empty(0), np.empty(0))
    observed, drawn, spread = (_swapped if numbers[0].paired else _dealt)(numbers, draws, seed)
    scale = np.where(spread > 0, spread, 1.0)
    scale = scale / np.array(importance if importance is not None else [1.0] * len(numbers))
    observed, drawn = np.where(spread > 0, observed / scale, 0.0), drawn / scale
    drawn[:, spread == 0] = 0.0
    largest = drawn.max(axis=1)
    return Chance(_share_as_large(drawn, observed), _share_as_large(largest[:, None], observed))


def same_distribution(
    judged: NDArray[np.float64],
    groups: Sequence[str],
    other: NDArray[np.float64],
    other_groups: Sequence[str] | None,
    draws: int,
    seed: int = 0,
) -> float:
    """P value of the two-sample Anderson-Darling statistic (Scholz and Stephens, JASA 82, 1987) under exchanges.

    It weighs both tails, so that it sees a mixture of known facts and facts pushed below chance where a mean does not.

    Args:
        judged: Scores of the judged model, ``[facts]``.
        groups: Their groups.
        other: Scores of the same facts, or of others.
        other_groups: Groups of those others; ``None`` for the same facts.
        draws: Random exchanges.
        seed: Of the exchanges.
    """
    paired = other_groups is None
    index, count = _numbered(groups)
    if other_groups is None:
        of_group = np.concatenate([index, index])
    else:
        other_index, other_count = _numbered(other_groups)
        of_group = np.concatenate([index, other_index + count])
    is_judged = np.arange(len(of_group)) < len(judged)
    pooled = np.concatenate([judged, other])
    order = np.argsort(pooled, kind="stable")
    of_group, is_judged, pooled = of_group[order], is_judged[order], pooled[order]
    ends = np.flatnonzero(np.diff(pooled) > _ROUNDING)  # the last of each run of equal scores, but for the last run
    if not len(ends):
        return 1.0
    observed = _anderson_darling(is_judged[None, :], ends)[0]
    exchanges = _signs(count, draws, seed) > 0 if paired else _deals(count, other_count, draws, seed)
    rows = max(1, _AT_ONCE // len(pooled))
    as_large = 0
    for start in range(0, draws, rows):
        stays = exchanges[start : start + rows][:, of_group]
        members = stays == is_judged if paired else stays
        as_large += int((_anderson_darling(members, ends) >= observed * (1 - _ROUNDING)).sum())
    return (1 + as_large) / (1 + draws)


def _anderson_darling(members: NDArray[np.bool_], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """The statistic of each row of ``[draws, scores in ascending order]``: who of them is on the judged side."""
    total = members.shape[1]
    below = np.cumsum(members, axis=1, dtype=np.int32)[:, ends].astype(np.float64)
    chosen = members.sum(axis=1).astype(np.float64)[:, None]
    place = (ends + 1).astype(np.float64)
    run = np.diff(ends, prepend=-1).astype(np.float64)
    parts = run * (below * total - chosen * place) ** 2 / (place * (total - place))
    scale = chosen[:, 0] * (total - chosen[:, 0])
    return np.asarray(parts.sum(axis=1) / np.where(scale > 0, scale, 1.0))


_Excess = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _swapped(numbers: Sequence[Sums], draws: int, seed: int) -> _Excess:
    """The excess ``[numbers]``, under each exchange of the models ``[draws, numbers]``, and its spread."""
    groups = {name: place for place, name in enumerate(sorted({name for each in numbers for name in each.judged}))}
    excess = np.zeros((len(groups), len(numbers)))
    for column, each in enumerate(numbers):
        for name, (total, _) in each.judged.items():
            excess[groups[name], column] = total - each.other[name][0]
    spread = np.sqrt((excess**2).sum(axis=0))  # exactly, so that equal numbers stay equal
    signs = _signs(len(groups), draws, seed)
    drawn = np.concatenate([signs[rows].astype(np.float64) @ excess for rows in _pieces(draws)])
    return excess.sum(axis=0), drawn, spread


def _dealt(numbers: Sequence[Sums], draws: int, seed: int) -> _Excess:
    """The same where facts change places."""
    judged = sorted({name for each in numbers for name in each.judged})
    other = sorted({name for each in numbers for name in each.other})
    totals, sizes = (np.zeros((len(judged) + len(other), len(numbers))) for _ in range(2))
    for column, each in enumerate(numbers):
        for start, names, found in ((0, judged, each.judged), (len(judged), other, each.other)):
            for place, name in enumerate(names, start):
                totals[place, column], sizes[place, column] = found.get(name, (0.0, 0))
    deals = _deals(len(judged), len(other), draws, seed)
    first = (np.arange(len(totals)) < len(judged)).astype(np.float64)[None, :]
    drawn = np.concatenate([_gap(deals[rows].astype(np.float64), totals, sizes) for rows in _pieces(draws)])
    spread = drawn.std(axis=0)
    return _gap(first, totals, sizes)[0], drawn, np.where(spread > _ROUNDING, spread, 0.0)


def _gap(chosen: NDArray[np.float64], totals: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the facts of chosen groups minus mean over the others, ``[draws, numbers]``."""
    means = []
    for weights in (chosen, 1 - chosen):
        counts = weights @ sizes
        means.append((weights @ totals) / np.where(counts > 0, counts, 1.0))
    return means[0] - means[1]


def _share_as_large(drawn: NDArray[np.float64], observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """The exchange that leaves everything in its place is one of those that give as much."""
    return np.asarray((1 + (drawn >= observed - _ROUNDING).sum(axis=0)) / (1 + len(drawn)))


def _by_group(values: Sequence[float] | NDArray[np.float64], groups: Sequence[str]) -> dict[str, tuple[float, int]]:
    found: dict[str, tuple[float, int]] = {}
    for value, group in zip(values, groups, strict=True):
        total, count = found.get(group, (0.0, 0))
        found[group] = (total + float(value), count + 1)
    return found


def _numbered(groups: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    places = {name: place for place, name in enumerate(sorted(set(groups)))}
    return np.array([places[name] for name in groups], dtype=np.int64), len(places)


@lru_cache(maxsize=4)
def _signs(groups: int, draws: int, seed: int) -> NDArray[np.int8]:
    """Who changes places: 1 stays, -1 does, ``[draws, groups]``; made once for a run."""
    signs = np.random.default_rng([seed, groups]).integers(0, 2, (draws, groups), dtype=np.int8) * 2 - 1
    signs.setflags(write=False)
    return np.asarray(signs, dtype=np.int8)


@lru_cache(maxsize=4)
def _deals(judged: int, other: int, draws: int, seed: int) -> NDArray[np.bool_]:
    """Which groups are on the judged side, ``[draws, judged + other]``; as many as there are, made once for a run."""
    generator = np.random.default_rng([seed, judged, other])
    deals = np.zeros((draws, judged + other), dtype=bool)
    for rows in _pieces(draws):
        order = np.argsort(generator.random(deals[rows].shape), axis=1)
        np.put_along_axis(deals[rows], order[:, :judged], True, axis=1)
    deals.setflags(write=False)
    return deals


def _pieces(draws: int) -> list[slice]:
    """Draws in pieces that fit into memory."""
    return [slice(start, start + _PIECE) for start in range(0, draws, _PIECE)]
