"""The attack section of a recipe: a tier, attacks by name, attacks under names of their own.

.. code-block:: yaml

    attack: release                                   # a tier with default settings, or
    attack:
      tier: release
      prune: false                                    # of the tier, but not here
      other-form: false                               # nor what is added for a chat model, with or without a tier
      rtt: {folds: 3}                                 # an attack with settings
      rtt-nf4: {attack: rtt, after: bnb-nf4}          # the attack on the weights of the NF4 file
      rtt-then-nf4: {attack: rtt, then: bnb-nf4}      # what comes of the attack, in NF4
      rtt-after-bnb-nf4: false                        # a tier that retrains does so after each format, but not here
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..attacks import ATTACKS, TIERS, Attack, tier_names
from ..attacks.composed import ORDER_KEYS, OrderedAttack
from ..data.example import DataBundle
from ..errors import HfUnlearnError, Refusals, RequestError, about, one_error
from ..quantization import FORMATS, full_name
from ..registry import suggest
from ..runtime.strict_yaml import Located, build
from .after_formats import after_formats, as_added, is_added
from .checks import check_name, located
from .enough_groups import check_forget_groups, lacks_the_same, too_few_groups
from .spec import Recipe

ADDED = ("other-form",)
"""Attacks that are added where the target calls for them, unless the recipe says ``false``."""
# Folders and transforms of a run that are not attacks.
_TAKEN = ("identity", "tier")


@dataclass(frozen=True)
class AttackSection:
    """What a recipe attacks with.

    Attributes:
        attacks: Attacks by name.
        tier: The tier that some of them come from. Those are left out if the data does not fit them.
        left_out: Attacks that are not to be added for the target, or for a format.
        added: Attacks that the tier adds for formats.
    """

    attacks: dict[str, Attack] = field(default_factory=dict)
    tier: str | None = None
    left_out: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def parse_attacks(tree: Located) -> AttackSection:
    """Read the attack section.

    Raises:
        RequestError: An unknown attack, tier, format or key, or settings that make no sense, with file and line.
    """
    if tree.value is None:
        return AttackSection()
    if isinstance(tree.value, str):
        tree = Located({"tier": tree}, tree.where)
    if not isinstance(tree.value, dict):
        raise RequestError(
            f"{tree.where}: attack must be a mapping from an attack's name to its settings, or the name of a tier "
            f"({', '.join(TIERS)})"
        )
    items = dict(tree.value)
    refusals, tier, is_tier = Refusals(), None, False
    with refusals.collected():
        tier, is_tier = _parse_tier(items.pop("tier", None)), True
    of_tier = tier_names(tier) if tier else []
    section: dict[str, Attack] = {name: ATTACKS.get(name).value() for name in of_tier if name not in items}
    refused = tuple(
        name
        for name, item in items.items()
        if item.value is False and name not in of_tier and (name in ADDED or is_added(name, tier))
    )
    for name, item in items.items():
        if item.value is not False:
            with refusals.collected():
                section[name] = _parse_attack(name, item)
        elif is_tier and name not in (*of_tier, *refused):
            where = f"the tier {tier} does not include it" if tier else "no tier is set that could include it"
            refusals.add(f"{item.where}: attack.{name} is left out with false, and {where}: remove the line")
    refusals.raise_any()
    return AttackSection({name: section[name] for name in _ordered(of_tier, items) if name in section}, tier, refused)


def _ordered(of_tier: list[str], items: Mapping[str, Located]) -> list[str]:
    return [*of_tier, *(name for name in items if name not in of_tier)]


def _parse_tier(item: Located | None) -> str | None:
    if item is None or item.value is None:
        return None
    with located(f"{item.where}: attack.tier"):
        tier_names(str(item.value))
    return str(item.value)


def _parse_attack(name: str, item: Located) -> Attack:
    if item.value is not None and not isinstance(item.value, dict):
        raise RequestError(f"{item.where}: attack.{name} must be a mapping of keys to values")
    given = dict(item.value or {})
    order = {key: given.pop(key) for key in ORDER_KEYS if key in given}
    for key, value in order.items():
        if not isinstance(value.value, str):
            raise RequestError(f"{value.where}: attack.{name}.{key} is {value.plain()!r}, it must be a name")
    kind = str(order["attack"].value) if "attack" in order else name
    with located(f"{order['attack'].where if 'attack' in order else item.where}: attack.{name}"):
        entry = _entry(kind, own_name="attack" in order)
    settings = build(entry.value, Located(given, item.where), f"attack.{name}")
    if not order:
        return settings
    with located(f"{item.where}: attack.{name}"):
        _check_own_name(name, kind)
    formats = {key: _format(f"attack.{name}.{key}", order[key]) for key in ("after", "then") if key in order}
    with located(f"{item.at('then')}: attack.{name}"):
        return OrderedAttack(kind, settings, formats.get("after"), formats.get("then"))


def _entry(kind: str, *, own_name: bool) -> Any:
    try:
        return ATTACKS.get(kind)
    except RequestError as error:
        if own_name:
            raise
        hint = "an attack under its own name must say which attack it is, as in attack: rtt"
        raise RequestError(f"{error}; {hint}") from None


def _check_own_name(name: str, kind: str) -> None:
    check_name(name, "the name of an attack")
    if name != kind and (name in ATTACKS.names() or name in _TAKEN or _is_format(name)):
        raise RequestError(f"the name {name!r} is already used for something else: choose another")


def _is_format(name: str) -> bool:
    try:
        FORMATS.require(name)
    except RequestError:
        return False
    return True


def _format(key: str, item: Located) -> str:
    with located(f"{item.where}: {key}"):
        name = full_name(str(item.value))
        FORMATS.require(name)
        return name


def check_attack_formats(recipe: Recipe, tree: Located) -> None:
    """What is attacked after quantization must be a file of this run, or a :class:`RequestError` is raised."""
    for name, attack in recipe.attack.items():
        after = attack.after if isinstance(attack, OrderedAttack) else None
        if after is not None and after not in recipe.export.formats:
            made = suggest(after, list(recipe.export.formats)) if recipe.export.formats else "it makes none"
            raise RequestError(
                f"{tree.at('attack', name, 'after')}: attack.{name}.after names {after!r}, which the run does not "
                f"make ({made}): add it to export.formats"
            )


def with_formats(recipe: Recipe) -> Recipe:
    """A recipe of a tier that retrains, with that after each format that it makes."""
    added = after_formats(recipe.attack, recipe.attack_tier, recipe.export.formats)
    new = {
        name: attack
        for name, attack in added.items()
        if name not in recipe.attack and name not in recipe.attack_left_out
    }
    return dataclasses.replace(recipe, attack={**recipe.attack, **new}) if new else recipe


def fitting(section: AttackSection, bundle: DataBundle) -> tuple[dict[str, Attack], dict[str, str]]:
    """Leave out the attacks of a tier that the data does not fit.

    Returns:
        The attacks that the data fits, and for each other one the reason.

    Raises:
        RequestError: The data does not fit an attack that is not of the tier.
    """
    of_tier = {*(tier_names(section.tier) if section.tier else ()), *section.added}
    reasons: dict[str, str] = {}
    errors: list[HfUnlearnError] = []
    for name, attack in section.attacks.items():
        try:
            with about(f"attack.{name}"):
                attack.plan(bundle)
        except RequestError as error:
            if name in of_tier:
                reasons[name] = str(error)
            else:
                errors.append(error)
    if errors:
        raise one_error(errors)
    return {name: attack for name, attack in section.attacks.items() if name not in reasons}, reasons


def fit_to_data(recipe: Recipe, bundle: DataBundle) -> tuple[Recipe, dict[str, str]]:
    """A recipe without the attacks of its tier that the data does not fit, its gate included.

    Beside what :func:`fitting` leaves out these are attacks that the gate judges and that ask for too few groups of
    facts to show its limit.

    Raises:
        RequestError: The data does not fit an attack that the recipe names itself, or that a control needs, or has too
            few groups of facts for the limit of the gate as it stands and in formats.
    """
    errors: list[HfUnlearnError] = []
    try:
        with about("gate.max_recovered_share_formats"):
            check_forget_groups(recipe.gate, bundle)
    except RequestError as error:
        errors.append(error)
    added = _added_for_formats(recipe)
    try:
        attacks, reasons = fitting(AttackSection(dict(recipe.attack), recipe.attack_tier, added=added), bundle)
    except RequestError as error:
        raise one_error([*errors, error]) from None
    too_few = bool(errors)
    of_tier = set(tier_names(recipe.attack_tier)) if recipe.attack_tier else set()
    for name in recipe.gate.attacks:
        if name in attacks and (problem := too_few_groups(name, attacks[name], recipe.gate, bundle)):
            # What the recipe sets itself must not drop out of the verdict for it.
            by_tier = name in added or (name in of_tier and attacks[name] == ATTACKS.get(name).value())
            if not by_tier:
                if not (too_few and lacks_the_same(attacks[name], recipe.gate, bundle)):
                    refusal = RequestError(problem)
                    refusal.key = "gate.max_recovered_share_attacks"
                    errors.append(refusal)
                continue
            reasons[name] = problem
            del attacks[name]
    if errors:
        raise one_error(errors)
    if not reasons:
        return recipe, reasons
    for control in recipe.controls:
        if lost := next((name for name in control.caught_by if name in reasons), None):
            with about("controls"):
                raise RequestError(f"the control {control.name} must be caught by {lost}, but {reasons[lost]}")
    judged = tuple(name for name in recipe.gate.attacks if name not in reasons)
    gate = dataclasses.replace(recipe.gate, attacks=judged)
    left_out = (*recipe.attack_left_out, *(name for name in reasons if name in added))
    return dataclasses.replace(recipe, attack=attacks, gate=gate, attack_left_out=left_out), reasons


def _added_for_formats(recipe: Recipe) -> tuple[str, ...]:
    """Attacks that are there because the tier retrains after each format, and as it does."""
    added = after_formats(recipe.attack, recipe.attack_tier, recipe.export.formats)
    return tuple(name for name, attack in recipe.attack.items() if as_added(attack, added.get(name)))
