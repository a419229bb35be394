"""An attack under its own name, and quantization before or after it.

A released file is often quantized, and an attack on it starts from the weights that it represents
(``after``). An attacker of the full-precision model may quantize the result (``then``). Both are the same
attack otherwise, and both have a budget of their own in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.example import DataBundle, Example
from ..errors import RequestError
from .base import Attack, Attacked, AttackResult
from .cost import AttackCost

#: Keys of the attack section for the order; no attack may have settings of these names.
ORDER_KEYS = ("attack", "after", "then")


@dataclass(frozen=True)
class OrderedAttack(Attack):
    """An attack with the formats before and after it.

    Attributes:
        kind: Name of the attack in the registry.
        settings: The attack.
        after: Format whose file is attacked: the attacker starts from the weights that it represents.
        then: Format that the attacked model is exported to before it is scored.
    """

    kind: str
    settings: Attack
    after: str | None = None
    then: str | None = None

    def __post_init__(self) -> None:
        if self.then is None:
            return
        from ..quantization import FORMATS

        if not self.settings.edits_weights:
            raise RequestError(
                f"then: {self.kind} changes no weights, so its result cannot be quantized: write after: "
                f"{self.then}, which attacks the quantized model"
            )
        if is_sharded(self):
            raise RequestError(
                f"then: {self.then} needs the whole attacked model on one device, and {self.kind} is sharded: leave "
                "out then, or sharded"
            )
        if FORMATS.get(self.then).value.calibrated:
            raise RequestError(
                f"then: {self.then} is calibrated, and an attacker's text is not known: use a format that needs none"
            )

    @property
    def no_floor(self) -> str:  # type: ignore[override]
        """As the attack says."""
        return self.settings.no_floor

    @property
    def order(self) -> dict[str, str]:
        """What is done, in the words of the recipe; keys that are not given are left out."""
        given = {"attack": self.kind, "after": self.after, "then": self.then}
        return {key: value for key, value in given.items() if value is not None}

    def plan(self, bundle: DataBundle) -> list[str]:
        """The attack's jobs."""
        return self.settings.plan(bundle)

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Run one of the attack's jobs; the stage has put the model into ``after``."""
        self.settings.run_job(job, replace(attacked, then=self.then), out)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """As the attack does."""
        return self.settings.collect(folders, metrics)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """The attack's, and the order."""
        return {**self.order, **self.settings.budget(bundle)}

    def check(self, attacked: Attacked) -> None:
        """As the attack does."""
        self.settings.check(attacked)

    def measures(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """As the attack does."""
        return self.settings.measures(metrics)

    def asked_groups(self, bundle: DataBundle) -> int:
        """As the attack does."""
        return self.settings.asked_groups(bundle)

    def floor_rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        """As the attack does."""
        return self.settings.floor_rows(bundle)

    def cost(self, bundle: DataBundle) -> AttackCost:
        """The attack's; quantizing comes on top."""
        return self.settings.cost(bundle)

    def records_kept(self, bundle: DataBundle) -> int:
        """As the attack does."""
        return self.settings.records_kept(bundle)


def kind_of(name: str, attack: Attack) -> str:
    """Name in the registry of an attack that a recipe may call otherwise."""
    return attack.kind if isinstance(attack, OrderedAttack) else name


def bare(attack: Attack) -> Attack:
    """The attack without its order."""
    return attack.settings if isinstance(attack, OrderedAttack) else attack


def judged_attacks(attacks: Mapping[str, Attack], *, never_knew: bool) -> tuple[str, ...]:
    """What a gate judges that names no attacks: all but those that only tell more.

    Without a never-knew model these are also those that holdout facts say nothing of.
    """
    return tuple(
        name for name, attack in attacks.items() if bare(attack).judged and (never_knew or not attack.no_floor)
    )


def is_sharded(attack: Attack) -> bool:
    """Whether all processes of a launch make each of its jobs together."""
    return bool(getattr(bare(attack), "sharded", False))


def after_of(attack: Attack) -> str | None:
    """The format whose file is attacked; ``None`` for the full-precision model."""
    return attack.after if isinstance(attack, OrderedAttack) else None
