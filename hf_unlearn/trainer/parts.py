"""The parts of a run taken together: its losses and rows as they make them, and what they keep in checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainingArguments

from ..data.pairing import PairedRows
from ..losses.base import Loss
from ..robust.base import TermName, TrainingPart
from .length import epochs_of_run

PARTS_FOLDER = "parts"
"""In a checkpoint: what parts keep beside the weights."""


def arranged(parts: Sequence[TrainingPart], rows: PairedRows, args: TrainingArguments) -> PairedRows:
    """The rows as all parts want them dealt.

    Args:
        parts: Of the run.
        rows: As they would be without them.
        args: Its settings, which say how often it goes through them.
    """
    for part in parts:
        rows = part.arrange(rows, epochs_of_run(args, len(rows.forget)))
    return rows


def loss_of_step(parts: Sequence[TrainingPart], loss: Loss, step: int, steps: int) -> Loss:
    """The forget loss of one step.

    Args:
        parts: Of the run.
        loss: That of the run's settings.
        step: Optimizer steps taken so far.
        steps: Optimizer steps of the whole run.
    """
    for part in parts:
        loss = part.forget_loss(loss, step, steps)
    return loss


def term_factors(parts: Sequence[TrainingPart], step: int) -> dict[TermName, float]:
    """The product of all parts' factors on each term.

    Args:
        parts: Of the run.
        step: Optimizer steps taken so far.
    """
    factors: dict[TermName, float] = {"forget": 1.0, "retain": 1.0}
    for part in parts:
        weights = part.term_weights(step)
        factors["forget"] *= weights.forget
        factors["retain"] *= weights.retain
    return factors


def save_parts(parts: Sequence[TrainingPart], checkpoint: Path) -> None:
    """Writes what parts keep beside the weights into a checkpoint's folder, which is made if it is not there."""
    folder = checkpoint / PARTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        part.save_state(folder)


def load_parts(parts: Sequence[TrainingPart], checkpoint: Path) -> None:
    """Gives every part what it kept in a checkpoint."""
    for part in parts:
        part.load_state(checkpoint / PARTS_FOLDER)
