"""Whether the forget set has enough independent groups of facts for the limits of the gate."""

from __future__ import annotations

from ..attacks.base import Attack
from ..data.example import DataBundle
from ..errors import RequestError
from ..verification.gate import Gate
from ..verification.intervals import MIN_GROUPS, least_limit, needed_groups


def check_forget_groups(gate: Gate, bundle: DataBundle) -> None:
    """Refuse a gate that no model could pass as it stands or in a format, because too few groups are asked about.

    Raises:
        RequestError: Names the key, the number of groups there are, how many are needed, and the limit that would do.
    """
    limit = gate.max_recovered_share_formats
    groups = _groups(bundle)
    needed = needed_groups(limit, gate.confidence)
    if needed is None:
        raise RequestError(
            "gate.max_recovered_share_formats is 0, and no number of facts can show that nothing at all is left: set "
            f"it to {least_limit(groups, gate.confidence) or 0.1:g} or more"
        )
    if groups >= needed:
        return
    would_do = least_limit(groups, gate.confidence)
    what = "can show so small a share" if needed > MIN_GROUPS else "an interval needs"
    other = f", or set it to {would_do:g} or more" if would_do else ""
    raise RequestError(
        f"gate.max_recovered_share_formats is {limit:g}, but the forget set asks about {groups} independent "
        f"{'group' if groups == 1 else 'groups'} of facts, and {needed} are the least that {what}: no model "
        f"could pass; add {needed - groups} groups to the forget set{other}"
    )


def too_few_groups(name: str, attack: Attack, gate: Gate, bundle: DataBundle) -> str | None:
    """Why nothing could pass under an attack: it asks about too few groups; ``None`` where it asks about enough.

    Args:
        name: What the recipe calls the attack.
        attack: Its settings.
        gate: Says what is allowed under attacks.
        bundle: The run's data.
    """
    limit = gate.max_recovered_share_attacks
    everything, asked = _groups(bundle), attack.asked_groups(bundle)
    needed = needed_groups(limit, gate.confidence)
    if needed is None:
        return "gate.max_recovered_share_attacks is 0, and no number of facts can show that nothing at all is left"
    if asked >= needed:
        return None
    ways = [f"raise attack.{name}.run_folds"] if everything >= needed and asked < everything else []
    ways += [f"add {needed - everything} groups to the forget set"] if everything < needed else []
    would_do = least_limit(asked, gate.confidence)
    ways += [f"set gate.max_recovered_share_attacks to {would_do:g} or more"] if would_do else []
    # As a value, because a recipe without the key judges all its attacks.
    ways += [f"set gate.attacks to [{', '.join(each for each in gate.attacks if each != name)}]"]
    return (
        f"attack.{name} asks for facts of {asked} groups of {everything}, and {needed} are the least that can show a "
        f"recovered share of at most {limit:g} (gate.max_recovered_share_attacks): no model could pass; "
        f"{', or '.join(ways)}"
    )


def lacks_the_same(attack: Attack, gate: Gate, bundle: DataBundle) -> bool:
    """Whether the groups that :func:`check_forget_groups` asks for are enough for an attack too.

    So it is where the attack asks about all facts and is allowed at least as much.

    Args:
        attack: Its settings.
        gate: What is allowed.
        bundle: The run's data.
    """
    for_attack = needed_groups(gate.max_recovered_share_attacks, gate.confidence)
    for_all = needed_groups(gate.max_recovered_share_formats, gate.confidence)
    asks_all = attack.asked_groups(bundle) == _groups(bundle)
    return for_attack is not None and for_all is not None and asks_all and for_attack <= for_all


def _groups(bundle: DataBundle) -> int:
    return len({row.group for row in bundle.forget.score})
