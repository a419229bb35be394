"""Relearning: fine-tuning on forgotten rows themselves, a few of them or all."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..data.encoding import TextFormat
from ..data.example import DataBundle
from ..errors import RequestError
from . import ATTACKS
from .retrained_model import Texts
from .retraining import Lesson, RetrainingAttack


@ATTACKS.register(
    "relearn",
    summary="fine-tune on a few forgotten facts, ask for all the others",
    paper="arXiv 2607.27836 (20 forget examples)",
    defaults=("examples", "learning_rates", "epochs", "batch_size"),
    needs=("never-knew control",),
    tier="release",
)
@dataclass(frozen=True, kw_only=True)
class Relearn(RetrainingAttack):
    """Settings of relearning on a few examples.

    The facts trained on are not asked for. Others of their groups are, and training may reveal some of those; the
    never-knew model, attacked in the same way, shows how many. For facts that reveal nothing about each other: RTT.

    Attributes:
        examples: Number of forgotten facts to train on, drawn once with the seed.
        seed: Seed of the draw and of the order of rows.
    """

    examples: int = 20

    epochs: int = 5
    batch_size: int = 8

    name: ClassVar[str] = "relearn"

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise RequestError(f"{self.name}.examples is {self.examples}: at least one fact is needed to train on")
        super().__post_init__()

    def lesson(self, bundle: DataBundle, text_format: TextFormat, fold: int = 0) -> Lesson:
        """Rows of a few facts to train on, rows of the others to ask for."""
        taught = self._taught(bundle)
        rows = tuple(row for row in bundle.forget.train if row.fact in taught)
        asked = tuple(row for row in bundle.forget.score if row.fact not in taught)
        return Lesson(Texts(rows, text_format, True), asked)

    def given(self, bundle: DataBundle) -> dict[str, Any]:
        """Facts trained on and asked for."""
        taught = self._taught(bundle)
        asked = {row.fact for row in bundle.forget.score} - taught
        return {"facts_trained_on": len(taught), "facts_asked_for": len(asked)}

    def _taught(self, bundle: DataBundle) -> frozenset[str]:
        facts = sorted({row.fact for row in bundle.forget.train})
        if self.examples >= len(facts):
            raise RequestError(
                f"{self.name}.examples is {self.examples}, but the forget set has {len(facts)} facts and some must be "
                f"left to ask for: lower attack.{self.name}.examples, or use relearn-all"
            )
        return frozenset(random.Random(f"relearn-{self.seed}").sample(facts, self.examples))


@ATTACKS.register(
    "relearn-all",
    summary="fine-tune on the whole forget set for one epoch, ask for all of it: how soon it returns",
    paper="arXiv 2605.24614 (1 epoch, learning rate 2e-5 with linear decay, batch 32)",
    defaults=("learning_rates", "epochs", "batch_size", "schedule"),
    needs=("never-knew control",),
    tier="release",
)
@dataclass(frozen=True, kw_only=True)
class RelearnAll(RetrainingAttack):
    """Settings of relearning on everything that was forgotten.

    The attacker has the forgotten rows, so whatever comes back may have been taught by them. Only the difference to a
    never-knew model that learns the same rows for the same time says something of what was left.

    Attributes:
        warmup_steps: Linear warm-up before the schedule.
        schedule: ``linear`` lets the rate fall to zero over all steps, as in the published script; ``constant`` sums
            to nearly twice as much.
    """

    learning_rates: tuple[float, ...] = (2e-5,)
    batch_size: int = 32
    schedule: Literal["linear", "constant"] = "linear"

    name: ClassVar[str] = "relearn-all"
    no_floor: ClassVar[str] = "it trains on the very facts that it asks for, which holdout facts say nothing of"

    @property
    def decays(self) -> bool:
        """As the recipe says."""
        return self.schedule == "linear"

    def lesson(self, bundle: DataBundle, text_format: TextFormat, fold: int = 0) -> Lesson:
        """The forget set, to train on and to ask for."""
        return Lesson(Texts(bundle.forget.train, text_format, True), bundle.forget.score)

    def given(self, bundle: DataBundle) -> dict[str, Any]:
        """Facts trained on and asked for: the same."""
        facts = len({row.fact for row in bundle.forget.score})
        return {"facts_trained_on": facts, "facts_asked_for": facts}
