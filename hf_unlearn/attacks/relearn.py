"""Relearning: fine-tuning on forgotten rows themselves, a few of them or all."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..data.example import DataBundle, Example
from ..errors import RequestError
from . import ATTACKS
from .base import Attack, Attacked, AttackResult
from .sweep import Sweep, plan_sweep, run_sweep_job, sweep_best, sweep_budget
from .tuning import Kind, Tuning


@ATTACKS.register(
    "relearn",
    summary="fine-tune on a few forgotten facts, ask for all the others",
    paper="arXiv 2607.27836 (20 forget examples)",
    defaults={"examples": 20, "learning_rates": [1e-5, 1e-4, 1e-3], "epochs": 5, "batch_size": 8},
    needs=("never-knew control",),
    tier="release",
)
@dataclass(frozen=True)
class Relearn(Attack):
    """Settings of relearning on a few examples.

    The facts trained on are not asked for. Others of their groups are, and some of those may be told by what was
    trained on; the never-knew model, attacked alike, shows how many. For facts that say nothing of each other: RTT.

    Attributes:
        examples: Forgotten facts to train on, drawn once by the seed.
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over them; the others are scored after each.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant.
        tuning: ``full`` trains all weights, ``lora`` adapters beside them.
        lora_rank: Rank of the adapters; their scale is twice of it.
        patience: A rate is given up after so many epochs without gain; 0 never gives up.
        seed: Seed of the draw and of the order of rows.
    """

    examples: int = 20
    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    epochs: int = 5
    batch_size: int = 8
    warmup_steps: int = 0
    tuning: Kind = "full"
    lora_rank: int = 16
    patience: int = 0
    seed: int = 0

    edits_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise RequestError(f"relearn.examples is {self.examples}: at least one fact is needed to train on")
        self.sweep.check()

    @property
    def sweep(self) -> Sweep:
        """The rates and what each costs."""
        return Sweep(
            self.learning_rates,
            self.epochs,
            self.batch_size,
            self.warmup_steps,
            f"relearn-{self.seed}",
            Tuning(self.tuning, self.lora_rank),
            self.patience,
            "relearn",
        )

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per rate."""
        self._drawn(bundle)
        return plan_sweep(self.sweep)

    def check(self, attacked: Attacked) -> None:
        """Refuse adapters that do not fit."""
        self.sweep.tuning.check_model(self.sweep.name, attacked.folder)

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Train on the drawn facts, score the others per epoch."""
        drawn = self._drawn(attacked.bundle)
        asked = [row for row in attacked.bundle.forget.score if row.fact not in drawn]
        run_sweep_job(self.sweep, job, attacked, _rows_of(attacked.bundle, drawn), asked, out)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best rate and epoch."""
        return sweep_best(folders, metrics)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Facts trained on and asked for, rates, epochs and steps."""
        drawn = self._drawn(bundle)
        rows = _rows_of(bundle, drawn)
        asked = {row.fact for row in bundle.forget.score} - drawn
        return {"facts_trained_on": len(drawn), "facts_asked_for": len(asked), **sweep_budget(self.sweep, len(rows))}

    def _drawn(self, bundle: DataBundle) -> frozenset[str]:
        facts = sorted({row.fact for row in bundle.forget.train})
        if self.examples >= len(facts):
            raise RequestError(
                f"relearn.examples is {self.examples}, but the forget set has {len(facts)} facts and some must be "
                "left to ask for: lower attack.relearn.examples, or use relearn-all"
            )
        return frozenset(random.Random(f"relearn-{self.seed}").sample(facts, self.examples))


@ATTACKS.register(
    "relearn-all",
    summary="fine-tune on the whole forget set for one epoch, ask for all of it: how soon it is back",
    paper="arXiv 2605.24614 (1 epoch, learning rate 2e-5, batch 32)",
    defaults={"learning_rates": [2e-5], "epochs": 1, "batch_size": 32},
    needs=("never-knew control",),
    tier="release",
)
@dataclass(frozen=True)
class RelearnAll(Attack):
    """Settings of relearning on everything that was forgotten.

    The attacker has the forgotten rows, so whatever comes back may have been taught by them. Only the difference to a
    never-knew model that learns the same rows for the same time says something of what was left.

    Attributes:
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over the forget set, which is scored after each.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant.
        tuning: ``full`` trains all weights, ``lora`` adapters beside them.
        lora_rank: Rank of the adapters; their scale is twice of it.
        patience: A rate is given up after so many epochs without gain; 0 never gives up.
        seed: Seed of the order of rows.
    """

    learning_rates: tuple[float, ...] = (2e-5,)
    epochs: int = 1
    batch_size: int = 32
    warmup_steps: int = 0
    tuning: Kind = "full"
    lora_rank: int = 16
    patience: int = 0
    seed: int = 0

    edits_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.sweep.check()

    @property
    def sweep(self) -> Sweep:
        """The rates and what each costs."""
        return Sweep(
            self.learning_rates,
            self.epochs,
            self.batch_size,
            self.warmup_steps,
            f"relearn-all-{self.seed}",
            Tuning(self.tuning, self.lora_rank),
            self.patience,
            "relearn-all",
        )

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per rate."""
        return plan_sweep(self.sweep)

    def check(self, attacked: Attacked) -> None:
        """Refuse adapters that do not fit."""
        self.sweep.tuning.check_model(self.sweep.name, attacked.folder)

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Train on the forget set and score it per epoch."""
        forget = attacked.bundle.forget
        run_sweep_job(self.sweep, job, attacked, forget.train, forget.score, out)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best rate and epoch."""
        return sweep_best(folders, metrics)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Facts trained on, rates, epochs and steps."""
        facts = len({row.fact for row in bundle.forget.score})
        return {
            "facts_trained_on": facts,
            "facts_asked_for": facts,
            **sweep_budget(self.sweep, len(bundle.forget.train)),
        }


def _rows_of(bundle: DataBundle, facts: frozenset[str]) -> list[Example]:
    return [row for row in bundle.forget.train if row.fact in facts]
