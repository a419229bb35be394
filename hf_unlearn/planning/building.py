"""What building a small model from scratch takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.encoding import EncodedRow
from ..models.scratch import ScratchSpec
from .operations import Pass, training
from .shape import ModelShape
from .work import counted


@dataclass(frozen=True)
class Building:
    """One model.

    Attributes:
        steps: Optimizer steps.
        tokens: That go through it, all epochs together.
        operations: Floating-point operations.
    """

    steps: int
    tokens: float
    operations: float


def building(shape: ModelShape, spec: ScratchSpec, rows: Sequence[EncodedRow]) -> Building:
    """Training a model on rows, as :func:`~hf_unlearn.models.scratch.train_scratch_model` does.

    Args:
        shape: Its sizes.
        spec: Epochs, rows of a step and labels.
        rows: What it learns in each epoch.
    """
    of_epoch = counted(rows)
    done = of_epoch.times(spec.epochs)
    labels = done.tokens if spec.labels == "all" else done.labels
    operations = training(shape, Pass(done.rows, done.tokens / max(1, done.rows), labels))
    return Building(spec.epochs * -(-len(rows) // spec.batch_size), done.tokens, operations)
