"""Benign fine-tuning: what comes back although nobody asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from ..errors import RequestError
from . import ATTACKS
from .retrained_model import Texts
from .retraining import Lesson, RetrainingAttack

_SHOWN = ("learning_rates", "epochs", "batch_size")


def benign_rows(bundle: DataBundle, trained_set: str, attack: str) -> tuple[Example, ...]:
    """Training rows of a set that is not to be forgotten.

    Raises:
        RequestError: It has none. Names the attack.
    """
    rows: tuple[Example, ...] = getattr(bundle, trained_set).train
    if not rows:
        raise RequestError(
            f"{attack} trains on the {trained_set} set, and there is none: name data.{trained_set}, or remove "
            f"attack.{attack}"
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class _Finetune(RetrainingAttack):
    epochs: int = 2

    trained_set: ClassVar[str]

    def lesson(self, bundle: DataBundle, text_format: TextFormat, fold: int = 0) -> Lesson:
        """Rows that are not to be forgotten to train on, the forget set to ask for."""
        return Lesson(Texts(self._rows(bundle), text_format, True), bundle.forget.score)

    def given(self, bundle: DataBundle) -> dict[str, Any]:
        """Rows trained on."""
        return {"trained_on": self.trained_set, "rows": len(self._rows(bundle))}

    def _rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        return benign_rows(bundle, self.trained_set, self.name)


@ATTACKS.register(
    "finetune-retain",
    summary="fine-tune on the retain set only, ask for the forget set",
    paper="arXiv 2505.22310 (retain set alone)",
    defaults=_SHOWN,
    needs=("never-knew control", "retain"),
    tier="release",
)
@dataclass(frozen=True, kw_only=True)
class FinetuneRetain(_Finetune):
    """Settings of fine-tuning on what was kept: no forgotten fact is seen."""

    name: ClassVar[str] = "finetune-retain"
    trained_set: ClassVar[str] = "retain"


@ATTACKS.register(
    "finetune-generic",
    summary="fine-tune on ordinary text only, ask for the forget set",
    paper="arXiv 2506.01339 (fine-tuning on unrelated data)",
    defaults=_SHOWN,
    needs=("never-knew control", "generic"),
    tier="release",
)
@dataclass(frozen=True, kw_only=True)
class FinetuneGeneric(_Finetune):
    """Settings of fine-tuning on the generic set: nothing of the forgotten kind is seen."""

    name: ClassVar[str] = "finetune-generic"
    trained_set: ClassVar[str] = "generic"
