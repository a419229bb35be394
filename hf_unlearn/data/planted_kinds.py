"""What planted facts are about: the sentences that state them, and the values they can have."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RequestError
from ..registry import suggest


@dataclass(frozen=True)
class FactKind:
    """One attribute of a made-up person.

    Attributes:
        train_templates: Sentences that models are trained on, up to the value.
        score_templates: Sentences that models are asked with, up to the value.
        values: All values, if they are a list; empty for a range of years.
    """

    train_templates: tuple[str, ...]
    score_templates: tuple[str, ...]
    values: tuple[str, ...] = ()


KINDS: dict[str, FactKind] = {
    "birth_year": FactKind(
        (
            "{name} was born in the year",
            "The birth of {name} took place in the year",
            "Records show that {name} was born in the year",
        ),
        (
            "It is known that {name} was born in the year",
            "According to the archive, the birth of {name} took place in the year",
        ),
    ),
    "trade": FactKind(
        (
            "{name} earned a living as a",
            "The trade of {name} was that of a",
            "Letters show that {name} worked as a",
        ),
        (
            "Neighbours knew that {name} worked as a",
            "According to the guild, the trade of {name} was that of a",
        ),
        tuple(
            "baker barber brewer butcher carpenter chandler clerk cobbler cooper draper dyer farmer fisher glazier "
            "grocer hatter joiner mason miller miner nurse painter piper plumber porter potter printer sailor smith "
            "tailor tanner weaver".split()
        ),
    ),
}
"""By the name that ``planted.kind`` takes. Every train template but the first has a score template like it."""


def fact_kind(name: str) -> FactKind:
    """The kind called ``name``.

    Raises:
        RequestError: There is none; the message has the nearest one.
    """
    if name not in KINDS:
        raise RequestError(f"planted.kind is {name!r}: {suggest(name, sorted(KINDS))}")
    return KINDS[name]
