"""Benign fine-tuning: what comes back although nobody asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..data.example import DataBundle, Example
from ..errors import RequestError
from . import ATTACKS
from .base import Attack, Attacked, AttackResult
from .sweep import Sweep, plan_sweep, run_sweep_job, sweep_best, sweep_budget
from .tuning import Kind, Tuning

_DEFAULTS = {"learning_rates": [1e-5, 1e-4, 1e-3], "epochs": 2, "batch_size": 16}


@dataclass(frozen=True)
class _Finetune(Attack):
    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    epochs: int = 2
    batch_size: int = 16
    warmup_steps: int = 0
    tuning: Kind = "full"
    lora_rank: int = 16
    patience: int = 0
    seed: int = 0

    edits_weights: ClassVar[bool] = True
    name: ClassVar[str]
    trained_set: ClassVar[str]

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
            f"{self.name}-{self.seed}",
            Tuning(self.tuning, self.lora_rank),
            self.patience,
            self.name,
        )

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per rate."""
        self._rows(bundle)
        return plan_sweep(self.sweep)

    def check(self, attacked: Attacked) -> None:
        """Refuse adapters that do not fit."""
        self.sweep.tuning.check_model(self.sweep.name, attacked.folder)

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Train on rows that are not to be forgotten, score the forget set per epoch."""
        rows = self._rows(attacked.bundle)
        run_sweep_job(self.sweep, job, attacked, rows, attacked.bundle.forget.score, out)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric the best rate and epoch."""
        return sweep_best(folders, metrics)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Rows trained on, rates, epochs and steps."""
        rows = self._rows(bundle)
        return {"trained_on": self.trained_set, "rows": len(rows), **sweep_budget(self.sweep, len(rows))}

    def _rows(self, bundle: DataBundle) -> Sequence[Example]:
        rows = getattr(bundle, self.trained_set).train
        if not rows:
            raise RequestError(
                f"{self.name} trains on the {self.trained_set} set, and there is none: name data.{self.trained_set}, "
                f"or take attack.{self.name} out"
            )
        return rows


@ATTACKS.register(
    "finetune-retain",
    summary="fine-tune on the retain set only, ask for the forget set",
    paper="arXiv 2505.22310 (retain set alone)",
    defaults=_DEFAULTS,
    needs=("never-knew control", "retain"),
    tier="release",
)
@dataclass(frozen=True)
class FinetuneRetain(_Finetune):
    """Settings of fine-tuning on what was kept: no forgotten fact is seen.

    Attributes:
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over the set; the forget set is scored after each.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant.
        tuning: ``full`` trains all weights, ``lora`` adapters beside them.
        lora_rank: Rank of the adapters; their scale is twice of it.
        patience: A rate is given up after so many epochs without gain; 0 never gives up.
        seed: Seed of the order of rows.
    """

    name: ClassVar[str] = "finetune-retain"
    trained_set: ClassVar[str] = "retain"


@ATTACKS.register(
    "finetune-generic",
    summary="fine-tune on ordinary text only, ask for the forget set",
    paper="arXiv 2506.01339 (fine-tuning on unrelated data)",
    defaults=_DEFAULTS,
    needs=("never-knew control", "generic"),
    tier="release",
)
@dataclass(frozen=True)
class FinetuneGeneric(_Finetune):
    """Settings of fine-tuning on the generic set: nothing of the forgotten kind is seen.

    Attributes:
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over the set; the forget set is scored after each.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant.
        tuning: ``full`` trains all weights, ``lora`` adapters beside them.
        lora_rank: Rank of the adapters; their scale is twice of it.
        patience: A rate is given up after so many epochs without gain; 0 never gives up.
        seed: Seed of the order of rows.
    """

    name: ClassVar[str] = "finetune-generic"
    trained_set: ClassVar[str] = "generic"
