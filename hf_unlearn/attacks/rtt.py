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

from dataclasses import dataclass
from typing import Any, ClassVar

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from ..data.independence import overlapping
from ..errors import RequestError
from . import ATTACKS
from .base import Attacked
from .retrained_model import Texts
from .retraining import Lesson, RetrainingAttack
from .retraining_settings import StepSettings
from .rtt_sets import (
    BARE,
    Asking,
    Fold,
    Form,
    Leaking,
    by_letter,
    has_letters,
    leaks_of,
    make_folds,
    split_groups,
    write_texts,
)
from .tuning import OptimizerName

__all__ = ["RTT", "split_groups"]


@ATTACKS.register(
    "rtt",
    summary="retrain on some forgotten facts, ask for the others (k folds, sweep of learning rates)",
    paper="arXiv 2410.08827, section 3.2",
    defaults=("folds", "learning_rates", "epochs", "batch_size", "tuning"),
    needs=("groups", "never-knew control"),
    tier="release",
)
@dataclass(frozen=True, kw_only=True)
class RTT(RetrainingAttack, StepSettings):
    """Settings of RTT.

    Attributes:
        folds: Parts into which the forgotten facts are split; facts that give each other away stay together.
        run_folds: How many of them serve as V, from the first on; all if left out (the paper ran 2 of 5).
        form: How T is written: ``rows`` as the facts were trained, ``multiple-choice`` (lettered options, then the
            answer), ``question-answer``, or ``sentences``.
        asked_by: ``rows`` asks for V as for all other rows, ``letters`` for the letter of an option (the paper).
        leaks: ``apart`` keeps facts that give each other away on one side, ``report`` only counts them.
        seed: Seed of the folds and of the order of rows.
    """

    folds: int = 5
    run_folds: int | None = None
    form: Form = "rows"
    asked_by: Asking = "rows"
    leaks: Leaking = "apart"
    optimizer: OptimizerName = "adamw"

    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: int = 6
    warmup_steps: int = 24
    patience: int = 8

    name: ClassVar[str] = "rtt"

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise RequestError(
                f"{self.name}.folds is {self.folds}: at least 2 are needed, one to train on and one to ask for"
            )
        if self.run_folds is not None and not 1 <= self.run_folds <= self.folds:
            raise RequestError(
                f"{self.name}.run_folds is {self.run_folds}: it must be between 1 and folds ({self.folds})"
            )
        super().__post_init__()

    @property
    def steps(self) -> StepSettings:
        """Those of the recipe."""
        return self

    @property
    def order(self) -> int:
        """The seed itself, as in the paper's code."""
        return self.seed

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per fold and rate."""
        for fold in self._folds(bundle):
            self._lesson(bundle, BARE, fold)
        return [f"fold{fold}-lr{rate!r}" for fold in range(self._run) for rate in self.learning_rates]

    def check(self, attacked: Attacked) -> None:
        """Refuse adapters that do not fit, and texts that the data's format cannot give."""
        super().check(attacked)
        for fold in self._folds(attacked.bundle):
            self._lesson(attacked.bundle, attacked.text_format, fold)

    def lesson(self, bundle: DataBundle, text_format: TextFormat, fold: int = 0) -> Lesson:
        """T to train on, and V to ask for."""
        return self._lesson(bundle, text_format, self._folds(bundle)[fold])

    def given(self, bundle: DataBundle) -> dict[str, Any]:
        """Facts in T and V, and what leaks."""
        folds = self._folds(bundle)
        left_out = max(len(fold.left_out) for fold in folds)
        return {
            "folds": self.folds,
            "run_folds": self._run,
            "groups_in_T": len(folds[0].train),
            "groups_in_V": len(folds[0].ask),
            "rows_in_T": len(self._texts(bundle, folds[0], BARE).rows),
            **({"groups_left_out": left_out} if left_out else {}),
            "leaks": {"handled": self.leaks, **leaks_of(bundle.forget).counts()},
            "form": self.form,
            "asked_by": self.asked_by,
        }

    def floor_rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        """All of them in every fold; by letter, where V is asked so, those that have options."""
        if self.asked_by == "letters":
            return by_letter([row for row in bundle.floor if has_letters(row)], self.name)
        return bundle.floor

    def asked_rows(self, bundle: DataBundle) -> int:
        """About as many as are in V."""
        return len(bundle.forget.score) // self.folds

    def asked_groups(self, bundle: DataBundle) -> int:
        """The groups of V in the folds that are run."""
        return len({group for fold in self._folds(bundle) for group in fold.ask})

    @property
    def _run(self) -> int:
        return self.run_folds or self.folds

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

    def _lesson(self, bundle: DataBundle, text_format: TextFormat, fold: Fold) -> Lesson:
        asked = tuple(row for row in bundle.forget.score if row.group in fold.ask)
        texts = self._texts(bundle, fold, text_format)
        if self.asked_by == "letters":
            return Lesson(texts, by_letter(asked, self.name), BARE)
        return Lesson(texts, asked)

    def _texts(self, bundle: DataBundle, fold: Fold, text_format: TextFormat) -> Texts:
        texts = write_texts(self.form, bundle.forget, fold.train, text_format, self.name)
        if not texts.rows:
            raise RequestError(
                f"{self.name}: T has no rows to train on: give the facts of the forget set training rows"
            )
        return texts
