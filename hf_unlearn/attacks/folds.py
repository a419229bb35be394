"""T and V: some forgotten facts to train on, others to ask for, and nothing of the second in the first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..data.example import Example, RowSet
from ..data.independence import Leaks, find_leaks
from ..errors import RequestError

Leaking = Literal["apart", "report"]


@dataclass(frozen=True)
class Fold:
    """One split.

    Attributes:
        train: Groups of T.
        ask: Groups of V.
        left_out: Groups that are in neither, since they tell of V (only where the data came with its own split).
    """

    train: frozenset[str]
    ask: frozenset[str]
    left_out: frozenset[str] = frozenset()


@lru_cache(maxsize=4)
def leaks_of(forget: RowSet) -> Leaks:
    """Facts of the forget set that say something of each other."""
    return find_leaks(forget)


def make_folds(forget: RowSet, folds: int, seed: int, leaks: Leaking, name: str) -> list[Fold]:
    """Split the forget set.

    Groups that say something of each other stay on one side. Data that came with a split of its own (rows with a
    ``fold``) keeps it: then groups that tell of V are left out of T.

    Args:
        forget: The forget set.
        folds: How many parts.
        seed: Of the split.
        leaks: ``apart`` as described, ``report`` takes groups as they are given.
        name: The attack, for messages.

    Raises:
        RequestError: Fewer independent groups than folds, another number of folds than the data came with, a group in
            two of them, or nothing left of T.
    """
    parts = _own_parts(forget.score, folds, name)
    if parts is None:
        return _dealt(forget, folds, seed, leaks, name)
    everything = frozenset().union(*parts)
    found = []
    for part in parts:
        reached = leaks_of(forget).reach(part) if leaks == "apart" else part
        train = everything - reached
        if not train:
            raise RequestError(
                f"{name}: every fact of T tells something of V in the split that the data came with: take duplicates "
                "out of the forget set"
            )
        found.append(Fold(train, part, reached & everything - part))
    return found


def split_groups(rows: Sequence[Example], folds: int, seed: int) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Split groups into folds as they are given; fold ``i`` gives (groups of T, groups of V = part i).

    Raises:
        RequestError: Fewer groups than folds.
    """
    scored = RowSet((), tuple(rows))
    return [(fold.train, fold.ask) for fold in _dealt(scored, folds, seed, "report", "rtt")]


def _dealt(forget: RowSet, folds: int, seed: int, leaks: Leaking, name: str) -> list[Fold]:
    groups = sorted({row.group for row in forget.score})
    component = {group: group for group in groups}
    if leaks == "apart":
        component = {group: leaks_of(forget).component[group] for group in groups}
    units: dict[str, list[str]] = {}
    for group in groups:
        units.setdefault(component[group], []).append(group)
    if len(units) < folds:
        raise RequestError(_too_few(name, folds, len(groups), len(units)))
    order = sorted(units)
    random.Random(f"rtt-{seed}").shuffle(order)
    parts: list[list[str]] = [[] for _ in range(folds)]
    for unit in sorted(order, key=lambda unit: -len(units[unit])):  # large ones first, or parts differ in size
        min(parts, key=len).extend(units[unit])
    everything = frozenset(groups)
    return [Fold(everything - frozenset(part), frozenset(part)) for part in parts]


def _too_few(name: str, folds: int, groups: int, units: int) -> str:
    if units == groups:
        return (
            f"{name} splits the forget set into {folds} folds of whole groups, but there are {groups} groups: lower "
            f"attack.{name}.folds, or give rows that are independent facts different values in the group column"
        )
    return (
        f"{name} splits the forget set into {folds} folds of facts that say nothing of each other, but its {groups} "
        f"groups share names or texts, so that only {units} can be told apart: lower attack.{name}.folds, take "
        f"duplicates out, or set attack.{name}.leaks to report if what they share tells nothing"
    )


def _own_parts(rows: Sequence[Example], folds: int, name: str) -> list[frozenset[str]] | None:
    """Groups by the fold that the data names; ``None`` if it names none."""
    if not rows or not all(row.fold for row in rows):
        return None
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row.fold, set()).add(row.group)
    if len(parts) != folds:
        raise RequestError(
            f"{name}: the forget set came in {len(parts)} folds and attack.{name}.folds is {folds}: set it to "
            f"{len(parts)}"
        )
    if sum(map(len, parts.values())) > len(frozenset().union(*parts.values())):
        raise RequestError(f"{name}: a group of the forget set is in two of its folds: give each fold its own groups")
    return [frozenset(parts[key]) for key in sorted(parts)]
