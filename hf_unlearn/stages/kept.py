"""Rows that a recipe names for the retain term: those of the retain set that are at hand, and of further sets."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ..data.example import Example
from .context import RunContext


def named_sets(context: RunContext) -> list[tuple[Example, ...]]:
    """Rows of the sets that the recipe names, set by set."""
    bundle, data = context.bundle, context.recipe.data
    sets = [at_hand(bundle.retain.train, data.retain_at_hand, context.recipe.seed)]
    if data.keep_generic:
        sets.append(bundle.generic.train)
    return sets + [bundle.extra[name].train for name in data.keep_extra]


def named_rows(context: RunContext) -> tuple[Example, ...]:
    """All of them."""
    return tuple(row for rows in named_sets(context) for row in rows)


def named_inputs(context: RunContext) -> Mapping[str, Any]:
    """What decides :func:`named_rows` beside the data; empty where the whole retain set and nothing else is kept."""
    data, inputs = context.recipe.data, dict[str, Any]()
    if data.keep_generic:
        inputs["keep_generic"] = True
    if data.keep_extra:
        inputs["keep_extra"] = list(data.keep_extra)
    if data.retain_at_hand != 1:
        inputs["retain_at_hand"] = data.retain_at_hand
    return inputs


def at_hand(rows: tuple[Example, ...], share: float, seed: int) -> tuple[Example, ...]:
    """The rows of a random share of the groups, in their order; of one group at least unless the share is 0."""
    if share == 1:
        return rows
    groups = sorted({row.group for row in rows})
    count = max(1, round(share * len(groups))) if share else 0
    drawn = set(random.Random(f"at-hand-{seed}").sample(groups, count))
    return tuple(row for row in rows if row.group in drawn)
