"""Retraining on T (RTT): train on some forgotten facts, ask for others that those say nothing about.

Source: Deeb and Roger, "Do Unlearning Methods Remove Information from Language Model Weights?" (arXiv 2410.08827),
section 3.2. The forgotten facts are split into folds of whole groups; one fold is V, the others are T. The attacker
fine-tunes on T and is scored on V after every epoch. What comes back on V cannot have been taught by T: it was hidden,
not removed. As in the paper the attacker's best learning rate and epoch count, here per metric and fold.

Where this differs from the released code of the paper: padding carries no loss, weights are trained in float32 with
AdamW instead of in float16 with Lion, and T is trained in the form the facts were learned in.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.example import DataBundle, Example
from ..errors import RequestError
from . import ATTACKS
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_epochs
from .retraining import LossTokens, RetrainingSettings, check_least, check_rates, retrain_and_score


@ATTACKS.register(
    "rtt",
    summary="retrain on some forgotten facts, ask for the others (k folds, sweep of learning rates)",
    paper="arXiv 2410.08827, section 3.2",
    defaults={"folds": 5, "learning_rates": [1e-4, 3e-4, 1e-3], "epochs": 6, "batch_size": 16},
    needs=("groups", "never-knew control"),
)
@dataclass(frozen=True)
class RTT(Attack):
    """Settings of RTT.

    Attributes:
        folds: Parts into which the groups of forgotten facts are split.
        run_folds: How many of them serve as V, from the first on; all if left out (the paper ran 2 of 5).
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over T; V is scored after each.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant (the paper's 24).
        loss_tokens: ``answer`` trains on the answers of T only, ``all`` on every token of its rows.
        max_grad_norm: Gradient clipping; 0 turns it off.
        seed: Seed of the split and of the order of rows.
    """

    folds: int = 5
    run_folds: int | None = None
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: int = 6
    batch_size: int = 16
    warmup_steps: int = 24
    loss_tokens: LossTokens = "answer"
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise RequestError(f"rtt.folds is {self.folds}: at least 2 are needed, one to train on and one to ask for")
        if self.run_folds is not None and not 1 <= self.run_folds <= self.folds:
            raise RequestError(f"rtt.run_folds is {self.run_folds}: it must be between 1 and folds ({self.folds})")
        check_rates("rtt", self.learning_rates)
        least = {"epochs": 1, "batch_size": 1, "warmup_steps": 0, "max_grad_norm": 0}
        check_least("rtt", {key: getattr(self, key) for key in least}, least)

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per fold and rate."""
        self._splits(bundle)
        folds = range(self.run_folds or self.folds)
        return [f"fold{fold}-lr{rate!r}" for fold in folds for rate in self.learning_rates]

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Facts in T and V, rates, epochs and steps."""
        train, ask = self._splits(bundle)[0]
        rows = sum(row.group in train for row in bundle.forget.train)
        return {
            "folds": self.folds,
            "run_folds": self.run_folds or self.folds,
            "groups_in_T": len(train),
            "groups_in_V": len(ask),
            "rows_in_T": rows,
            "learning_rates": list(self.learning_rates),
            "epochs": self.epochs,
            "steps_per_rate": self.epochs * -(-rows // self.batch_size),
            "optimizer": "AdamW, full fine-tuning in float32",
            "loss_tokens": self.loss_tokens,
        }

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Fine-tune on T at one rate; write V's records per epoch: see :func:`retrain_and_score`."""
        fold, rate = self._parse(job)
        train_groups, ask_groups = self._splits(attacked.bundle)[fold]
        rows = [row for row in attacked.bundle.forget.train if row.group in train_groups]
        asked = [row for row in attacked.bundle.forget.score if row.group in ask_groups]
        retrain_and_score(self.retraining(rate), attacked, rows, asked, out)

    def retraining(self, rate: float) -> RetrainingSettings:
        """How one job of the sweep fine-tunes."""
        return RetrainingSettings(
            learning_rate=rate,
            epochs=self.epochs,
            batch_size=self.batch_size,
            warmup_steps=self.warmup_steps,
            loss_tokens=self.loss_tokens,
            max_grad_norm=self.max_grad_norm,
            order=f"rtt-order-{self.seed}",
        )

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric and fold the best rate and epoch; facts of all folds together."""
        tries = []
        for job, folder in folders.items():
            fold, rate = self._parse(job)
            tries += read_epochs(folder, fold, rate)
        return best_of(tries, metrics)

    def _parse(self, job: str) -> tuple[int, float]:
        fold, rate = job.removeprefix("fold").split("-lr")
        return int(fold), float(rate)

    def _splits(self, bundle: DataBundle) -> list[tuple[frozenset[str], frozenset[str]]]:
        return split_groups(bundle.forget.score, self.folds, self.seed)


def split_groups(rows: Sequence[Example], folds: int, seed: int) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Split groups into folds; fold ``i`` gives (groups of T, groups of V = part i).

    Raises:
        RequestError: Fewer groups than folds.
    """
    groups = sorted({row.group for row in rows})
    if len(groups) < folds:
        raise RequestError(
            f"rtt splits the forget set into {folds} folds of whole groups, but there are {len(groups)} groups: "
            "lower attack.rtt.folds, or give rows that are independent facts different values in the group column"
        )
    random.Random(f"rtt-{seed}").shuffle(groups)
    parts = [frozenset(groups[index::folds]) for index in range(folds)]
    everything = frozenset(groups)
    return [(everything - part, part) for part in parts]
