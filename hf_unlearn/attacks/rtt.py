"""Retraining on T (RTT): train on some forgotten facts, ask for others that those say nothing about.

Source: Deeb and Roger, "Do Unlearning Methods Remove Information from Language Model Weights?" (arXiv 2410.08827),
section 3.2. The forgotten facts are split into folds of whole groups; one fold is V, the others are T. The attacker
fine-tunes on T and is scored on V after every epoch. What comes back on V cannot have been taught by T: it was hidden,
not removed. As in the paper the attacker's best learning rate and epoch count, here per metric and fold.

Where this differs from the released code of the paper: padding carries no loss, weights are trained in float32 with
AdamW instead of in float16 with Lion, T is trained in the form the facts were learned in, and a hopeless rate is given
up. The paper's own settings are :class:`~hf_unlearn.attacks.rtt_paper.RTTPaper`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from ..data.independence import overlapping
from ..errors import RequestError
from . import ATTACKS
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_ends, read_epochs
from .folds import Fold, Leaking, leaks_of, make_folds, split_groups
from .forms import BARE, Asking, Form, Texts, by_letter, write_texts
from .retraining import Dtype, LossTokens, retrain_and_score
from .sweep import Sweep, sweep_budget
from .tuning import Kind, OptimizerName, Tuning

__all__ = ["RTT", "split_groups"]


@ATTACKS.register(
    "rtt",
    summary="retrain on some forgotten facts, ask for the others (k folds, sweep of learning rates)",
    paper="arXiv 2410.08827, section 3.2",
    defaults={"folds": 5, "learning_rates": [1e-4, 3e-4, 1e-3], "epochs": 6, "batch_size": 16, "tuning": "full"},
    needs=("groups", "never-knew control"),
    tier="release",
)
@dataclass(frozen=True)
class RTT(Attack):
    """Settings of RTT.

    Attributes:
        folds: Parts into which the forgotten facts are split; facts that tell of each other stay together.
        run_folds: How many of them serve as V, from the first on; all if left out (the paper ran 2 of 5).
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over T; V is scored after each.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant (the paper's 24).
        form: How T is written: ``rows`` as the facts were trained, ``multiple-choice`` (lettered options, then the
            answer), ``question-answer``, or ``sentences``.
        asked_by: ``rows`` asks for V as everything else is asked, ``letters`` for the letter of an option (the paper).
        loss_tokens: ``answer`` trains on the answers of T only, ``all`` on every token of its rows.
        max_tokens: Longer rows of T lose their beginning; whole if left out.
        tuning: ``full`` trains all weights, ``lora`` adapters beside them.
        lora_rank: Rank of the adapters; their scale is twice of it.
        lora_targets: Layers that get adapters; all linear ones but the output head if left out.
        optimizer: ``adamw`` or ``lion``, without weight decay.
        dtype: Type of the weights while they are trained.
        max_grad_norm: Gradient clipping; 0 turns it off.
        patience: A rate is given up after so many epochs without gain on V; 0 never gives up.
        leaks: ``apart`` keeps facts that tell of each other on one side, ``report`` only counts them.
        seed: Seed of the split and of the order of rows.
    """

    folds: int = 5
    run_folds: int | None = None
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: int = 6
    batch_size: int = 16
    warmup_steps: int = 24
    form: Form = "rows"
    asked_by: Asking = "rows"
    loss_tokens: LossTokens = "answer"
    max_tokens: int | None = None
    tuning: Kind = "full"
    lora_rank: int = 16
    lora_targets: tuple[str, ...] = ()
    optimizer: OptimizerName = "adamw"
    dtype: Dtype = "float32"
    max_grad_norm: float = 1.0
    patience: int = 2
    leaks: Leaking = "apart"
    seed: int = 0

    name: ClassVar[str] = "rtt"
    edits_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise RequestError(
                f"{self.name}.folds is {self.folds}: at least 2 are needed, one to train on and one to ask for"
            )
        if self.run_folds is not None and not 1 <= self.run_folds <= self.folds:
            raise RequestError(
                f"{self.name}.run_folds is {self.run_folds}: it must be between 1 and folds ({self.folds})"
            )
        self.sweep.check()

    @property
    def sweep(self) -> Sweep:
        """The rates and what each costs."""
        return Sweep(
            self.learning_rates,
            self.epochs,
            self.batch_size,
            self.warmup_steps,
            self.seed,
            Tuning(self.tuning, self.lora_rank, self.lora_targets),
            self.patience,
            self.name,
            loss_tokens=self.loss_tokens,
            max_tokens=self.max_tokens,
            max_grad_norm=self.max_grad_norm,
            optimizer=self.optimizer,
            dtype=self.dtype,
        )

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per fold and rate."""
        for fold in self._folds(bundle):
            self._texts(bundle, fold, BARE if self.form == "sentences" else None)
            self._asked(bundle, fold)
        return [f"fold{fold}-lr{rate!r}" for fold in range(self._run) for rate in self.learning_rates]

    def check(self, attacked: Attacked) -> None:
        """Refuse adapters that do not fit, and texts that the data's format cannot give."""
        self.sweep.tuning.check_model(self.name, attacked.folder)
        for fold in self._folds(attacked.bundle):
            self._texts(attacked.bundle, fold, attacked.text_format)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Facts in T and V, what leaks, rates, epochs and steps."""
        folds = self._folds(bundle)
        rows = len(self._texts(bundle, folds[0], None).rows)
        left_out = max(len(fold.left_out) for fold in folds)
        return {
            "folds": self.folds,
            "run_folds": self._run,
            "groups_in_T": len(folds[0].train),
            "groups_in_V": len(folds[0].ask),
            "rows_in_T": rows,
            **({"groups_left_out": left_out} if left_out else {}),
            "leaks": {"handled": self.leaks, **leaks_of(bundle.forget).counts()},
            "form": self.form,
            "asked_by": self.asked_by,
            **sweep_budget(self.sweep, rows),
        }

    def asked_groups(self, bundle: DataBundle) -> int:
        """The groups of V in the folds that are run."""
        return len({group for fold in self._folds(bundle) for group in fold.ask})

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Fine-tune on T at one rate; write V's records per epoch: see :func:`retrain_and_score`."""
        number, rate = self._parse(job)
        fold = self._folds(attacked.bundle)[number]
        texts = self._texts(attacked.bundle, fold, attacked.text_format)
        asked, fmt = self._asked(attacked.bundle, fold)
        retrain_and_score(self.sweep.retraining(rate), attacked, texts, asked, out, fmt)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric and fold the best rate and epoch; facts of all folds together."""
        tries, ends = [], []
        for job, folder in folders.items():
            fold, rate = self._parse(job)
            tries += read_epochs(folder, fold, rate)
            ends += read_ends(folder, fold, rate)
        return best_of(tries, metrics, ends=ends)

    @property
    def _run(self) -> int:
        return self.run_folds or self.folds

    def _parse(self, job: str) -> tuple[int, float]:
        fold, rate = job.removeprefix("fold").split("-lr")
        return int(fold), float(rate)

    def _folds(self, bundle: DataBundle) -> list[Fold]:
        folds = make_folds(bundle.forget, self.folds, self.seed, self.leaks, self.name)[: self._run]
        for fold in folds:
            train, ask = ([row for row in bundle.forget if row.group in groups] for groups in (fold.train, fold.ask))
            if repeated := overlapping(train, ask):
                raise RequestError(
                    f"{self.name}: {repeated} row(s) of V stand word by word in T, which would teach them: set "
                    f"attack.{self.name}.leaks to apart, or take them out of the forget set"
                )
        return folds

    def _texts(self, bundle: DataBundle, fold: Fold, fmt: TextFormat | None) -> Texts:
        texts = write_texts(self.form, bundle.forget, fold.train, fmt or BARE, self.name)
        if not texts.rows:
            raise RequestError(
                f"{self.name}: T has no rows to train on: give the facts of the forget set training rows"
            )
        return texts

    def _asked(self, bundle: DataBundle, fold: Fold) -> tuple[tuple[Example, ...], TextFormat | None]:
        rows = tuple(row for row in bundle.forget.score if row.group in fold.ask)
        return (by_letter(rows, self.name), BARE) if self.asked_by == "letters" else (rows, None)
