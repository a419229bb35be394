"""Attacks: each takes a model folder and returns scored records of what came back.

They come in tiers by cost, so a release check need not list them one by one. A tier holds its own
attacks and those of the tiers before it. ``quick`` trains nothing and takes as long as a few evaluations; ``release``
is what a release should have stood; ``deep`` adds full sweeps and diagnoses.
"""

from __future__ import annotations

from ..errors import RequestError
from ..registry import Registry, suggest
from .base import Attack

ATTACKS: Registry[type[Attack]] = Registry("attack", "hf_unlearn.attacks", facts=("judged",))
TIERS = ("quick", "release", "deep")

__all__ = ["ATTACKS", "TIERS", "Attack", "tier_names"]


def tier_names(tier: str) -> list[str]:
    """Names of the attacks of a tier, sorted.

    Raises:
        RequestError: There is no such tier.
    """
    if tier not in TIERS:
        raise RequestError(f"there is no tier called {tier!r}: {suggest(tier, list(TIERS))}")
    wanted = TIERS[: TIERS.index(tier) + 1]
    return [entry.name for entry in ATTACKS.entries() if entry.tier in wanted]
