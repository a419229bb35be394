"""A recipe as plain data, which reads back as the same recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..attacks import Attack, tier_names
from ..attacks.composed import OrderedAttack, bare


def plain(value: Any) -> Any:
    """Mappings, lists and scalars in place of dataclasses, mappings and sequences."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = (item for item in dataclasses.fields(value) if item.init and not _left_out(item, value))
        return {item.name: plain(getattr(value, item.name)) for item in kept}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _left_out(item: dataclasses.Field[Any], value: Any) -> bool:
    """Keys newer than some finished runs are left out if they have their default: those runs do not know them."""
    return bool(item.metadata.get("left_out_at_default")) and getattr(value, item.name) == item.default


def plain_attacks(attacks: Mapping[str, Attack], tier: str | None, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The attack section.

    Args:
        attacks: Attacks by name.
        tier: The tier that some come from; attacks of the tier that are not among them are written as ``false``.
        without: Further attacks that are written as ``false``.
    """
    section: dict[str, Any] = {"tier": tier} if tier else {}
    for name, attack in attacks.items():
        order = attack.order if isinstance(attack, OrderedAttack) else {}
        section[name] = {**order, **plain(bare(attack))}
    left_out = [name for name in (tier_names(tier) if tier else ()) if name not in attacks]
    return {**section, **dict.fromkeys((*left_out, *without), False)}
