"""A sweep of learning rates: what all attacks that fine-tune at several of them have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.example import Example
from ..errors import RequestError
from .base import Attacked, AttackResult
from .best import best_of, read_ends, read_epochs
from .retraining import Dtype, LossTokens, RetrainingSettings, check_least, check_rates, retrain_and_score
from .tuning import OptimizerName, Tuning, check_optimizer


@dataclass(frozen=True)
class Sweep:
    """Rates to try, and how long.

    Attributes:
        learning_rates: One job each.
        epochs: Passes over the rows.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant.
        order: Seeds the order of rows.
        tuning: What of the model is trained.
        patience: Epochs without gain after which a rate is given up; 0 never gives up.
        name: The attack, for messages.
        loss_tokens: ``answer`` trains on answers only, ``all`` on every token.
        max_tokens: Longer rows lose their beginning; ``None`` leaves them whole.
        max_grad_norm: Gradient clipping; 0 turns it off.
        optimizer: Which one, without weight decay.
        dtype: Type of the weights while they are trained.
    """

    learning_rates: tuple[float, ...]
    epochs: int
    batch_size: int
    warmup_steps: int
    order: str | int
    tuning: Tuning = field(default_factory=Tuning)
    patience: int = 0
    name: str = "attack"
    loss_tokens: LossTokens = "answer"
    max_tokens: int | None = None
    max_grad_norm: float = 1.0
    optimizer: OptimizerName = "adamw"
    dtype: Dtype = "float32"

    def check(self) -> None:
        """Refuse what makes no sense, under the name of the attack: :class:`RequestError`."""
        check_rates(self.name, self.learning_rates)
        least = {"epochs": 1, "batch_size": 1, "warmup_steps": 0, "max_grad_norm": 0, "patience": 0}
        check_least(self.name, {key: getattr(self, key) for key in least}, least)
        if self.max_tokens is not None and self.max_tokens < 2:
            raise RequestError(f"{self.name}.max_tokens is {self.max_tokens}: a row has at least 2 tokens")
        check_optimizer(self.optimizer, self.dtype, self.name)
        self.tuning.check(self.name)

    def retraining(self, rate: float) -> RetrainingSettings:
        """How one job of the sweep fine-tunes."""
        return RetrainingSettings(
            learning_rate=rate,
            epochs=self.epochs,
            batch_size=self.batch_size,
            warmup_steps=self.warmup_steps,
            loss_tokens=self.loss_tokens,
            max_grad_norm=self.max_grad_norm,
            order=self.order,
            optimizer=self.optimizer,
            dtype=self.dtype,
            tuning=self.tuning,
            patience=self.patience,
            max_tokens=self.max_tokens,
            name=self.name,
        )


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
    """Fine-tuning in float32 on ``rows`` at the job's rate; records of ``asked`` per epoch."""
    retrain_and_score(sweep.retraining(_rate(job)), attacked, rows, asked, out)


def sweep_best(folders: Mapping[str, Path], metrics: Sequence[str]) -> AttackResult:
    """Per metric the best rate and epoch."""
    tries = [each for job, folder in folders.items() for each in read_epochs(folder, 0, _rate(job))]
    ends = [end for job, folder in folders.items() for end in read_ends(folder, 0, _rate(job))]
    return best_of(tries, metrics, ends=ends)


def sweep_budget(sweep: Sweep, rows: int) -> dict[str, Any]:
    """Rates, epochs and steps, as plain data."""
    return {
        "learning_rates": list(sweep.learning_rates),
        "epochs": sweep.epochs,
        "steps_per_rate": sweep.epochs * -(-rows // sweep.batch_size),
        **sweep.retraining(sweep.learning_rates[0]).describe(),
    }


def _rate(job: str) -> float:
    return float(job.removeprefix("lr"))
