"""A sweep of learning rates over fixed rows: what attacks have in common that train on rows without folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.example import Example
from .base import Attacked, AttackResult
from .best import best_of, read_epochs
from .retraining import RetrainingSettings, check_least, check_rates, retrain_and_score


@dataclass(frozen=True)
class Sweep:
    """Rates to try, and how long.

    Attributes:
        learning_rates: One job each.
        epochs: Passes over the rows.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant.
        order: Seeds the order of rows.
    """

    learning_rates: tuple[float, ...]
    epochs: int
    batch_size: int
    warmup_steps: int
    order: str

    def check(self, name: str) -> None:
        """Refuse what makes no sense, under the name of the attack: :class:`RequestError`."""
        check_rates(name, self.learning_rates)
        least = {"epochs": 1, "batch_size": 1, "warmup_steps": 0}
        check_least(name, {key: getattr(self, key) for key in least}, least)


def plan_sweep(sweep: Sweep) -> list[str]:
    """One job per rate."""
    return [f"lr{rate!r}" for rate in sweep.learning_rates]


def run_sweep_job(
    sweep: Sweep,
    job: str,
    attacked: Attacked,
    rows: Sequence[Example],
    asked: Sequence[Example],
    out: Path,
) -> None:
    """Full fine-tuning in float32 on ``rows`` at the job's rate; records of ``asked`` per epoch."""
    settings = RetrainingSettings(
        learning_rate=_rate(job),
        epochs=sweep.epochs,
        batch_size=sweep.batch_size,
        warmup_steps=sweep.warmup_steps,
        loss_tokens="answer",
        max_grad_norm=1.0,
        order=sweep.order,
    )
    retrain_and_score(settings, attacked, rows, asked, out)


def sweep_best(folders: Mapping[str, Path], metrics: Sequence[str]) -> AttackResult:
    """Per metric the best rate and epoch."""
    tries = [each for job, folder in folders.items() for each in read_epochs(folder, 0, _rate(job))]
    return best_of(tries, metrics)


def sweep_budget(sweep: Sweep, rows: int) -> dict[str, Any]:
    """Rates, epochs and steps, as plain data."""
    return {
        "learning_rates": list(sweep.learning_rates),
        "epochs": sweep.epochs,
        "steps_per_rate": sweep.epochs * -(-rows // sweep.batch_size),
        "optimizer": "AdamW, full fine-tuning in float32",
        "loss_tokens": "answer",
    }


def _rate(job: str) -> float:
    return float(job.removeprefix("lr"))
