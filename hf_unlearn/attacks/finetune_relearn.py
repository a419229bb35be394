"""Benign fine-tuning, then relearning: does ordinary use of a model make a few forgotten facts go further?

Many who attack a model have first made it theirs. Fine-tuning on kept rows or ordinary text alone moves weights away
from what unlearning did to them, and the few forgotten facts after it start from there. Facts that are asked for are
in neither.

Sources: arXiv 2505.22310 (fine-tuning on the retain set alone) and arXiv 2607.27836 (relearning on 20 examples). That
the one comes before the other is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from . import ATTACKS
from .finetune import benign_rows
from .relearn import Relearn
from .retrained_model import Texts
from .retraining import Lesson
from .retraining_settings import check_least


@ATTACKS.register(
    "finetune-relearn",
    summary="fine-tune on what may be kept, then on a few forgotten facts, ask for all the others",
    paper="arXiv 2505.22310 (retain set alone) and arXiv 2607.27836 (20 examples); one after the other this project",
    defaults=("first", "first_epochs", "examples", "learning_rates", "epochs", "batch_size"),
    needs=("never-knew control", "retain"),
    tier="release",
)
@dataclass(frozen=True, kw_only=True)
class FinetuneRelearn(Relearn):
    """Settings of relearning after benign fine-tuning, both at the same rate.

    Attributes:
        first: The set that is trained on first, ``retain`` or ``generic``.
        first_epochs: Passes over it.
        examples: Number of forgotten facts to train on afterwards, drawn once with the seed.
        seed: Seed of the draw and of the orders of rows.
    """

    first: Literal["retain", "generic"] = "retain"
    first_epochs: int = 2

    name: ClassVar[str] = "finetune-relearn"

    def __post_init__(self) -> None:
        check_least(self.name, "first_epochs", self.first_epochs, 1)
        super().__post_init__()

    def lesson(self, bundle: DataBundle, text_format: TextFormat, fold: int = 0) -> Lesson:
        """The benign rows, then rows of a few facts; rows of the others to ask for."""
        then = super().lesson(bundle, text_format, fold)
        first = Texts(self._benign(bundle), text_format, True)
        return Lesson(then.texts, then.asked, first=first, first_epochs=self.first_epochs)

    def given(self, bundle: DataBundle) -> dict[str, Any]:
        """Rows trained on first, facts trained on then and asked for."""
        first = {"first_trained_on": self.first, "first_rows": len(self._benign(bundle))}
        return {**first, "first_epochs": self.first_epochs, **super().given(bundle)}

    def _benign(self, bundle: DataBundle) -> tuple[Example, ...]:
        return benign_rows(bundle, self.first, self.name)
