"""Retraining after each format: what the tier ``release`` adds for the files that a run makes.

A quantized file that answers nothing may still be the better place to start from: rounding has moved every weight, and
what unlearning hid by small changes is nearer. So a tier that retrains starts once from each file too. Once means: two
folds and one rate, which together ask for every fact, at about a twelfth of what ``rtt`` takes by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..attacks import Attack, tier_names
from ..attacks.composed import OrderedAttack
from ..attacks.rtt import RTT
from ..quantization import FORMATS

PREFIX = "rtt-after-"
_KIND = "rtt"
_PLAIN_BITS = 16


def after_formats(
    attacks: Mapping[str, Attack], tier: str | None, formats: tuple[str, ...]
) -> dict[str, OrderedAttack]:
    """Retraining after each quantized format, by name: ``rtt-after-bnb-nf4``.

    Args:
        attacks: The attacks of the recipe, whose ``rtt`` says how is retrained.
        tier: The tier of the recipe.
        formats: The formats that the run makes.

    Returns:
        None of a tier without ``rtt``, or where that is left out.
    """
    rtt = attacks.get(_KIND)
    if tier is None or _KIND not in tier_names(tier) or not isinstance(rtt, RTT):
        return {}
    rates = sorted(rtt.learning_rates)
    once = replace(rtt, folds=2, run_folds=None, learning_rates=(rates[len(rates) // 2],))
    return {f"{PREFIX}{name}": OrderedAttack(_KIND, once, after=name) for name in formats if _is_quantized(name)}


def is_added(name: str, tier: str | None) -> bool:
    """Whether a tier adds attacks of this name, where the run makes the format in it."""
    known = name.startswith(PREFIX) and name.removeprefix(PREFIX) in FORMATS.names()
    return known and tier is not None and _KIND in tier_names(tier)


def as_added(attack: Attack, added: Attack | None) -> bool:
    """Whether an attack is as the tier adds it, but for what was settled for the machine."""
    if not isinstance(attack, OrderedAttack) or not isinstance(added, OrderedAttack):
        return False
    own, other = attack.settings, added.settings
    if not isinstance(own, RTT) or not isinstance(other, RTT) or attack.order != added.order:
        return False
    settled = replace(
        own,
        tuning=other.tuning,
        lora_rank=other.lora_rank,
        optimizer=other.optimizer,
        sharded=other.sharded,
        learning_rates=other.learning_rates,
    )
    return settled == other and len(own.learning_rates) == 1


def _is_quantized(name: str) -> bool:
    entry = FORMATS.get(name).value
    return bool(entry.published and entry.bits < _PLAIN_BITS)
