"""The two moments of a training run at which a part may act, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingContext:
    """The run a part is about to take part in.

    Attributes:
        model: The model at its original weights, on its device, not yet wrapped for several processes.
        forget_loss_shares: Goes once over the whole forget set in micro-batches. Each item is a scalar with a graph;
            together they add up to the forget loss at the model's current weights (the mean of the whole set).
        output_dir: Where the run keeps its checkpoints; a part may leave files there.
        resuming: Whether the run continues from a checkpoint.
        writes: Whether this process is the one that writes files.
    """

    model: nn.Module
    forget_loss_shares: Callable[[], Iterator[Tensor]]
    output_dir: Path
    resuming: bool
    writes: bool


class TrainingPart:
    """Does nothing; a part overrides the moment it needs."""

    def prepare(self, context: TrainingContext) -> None:
        """Called once, at the original weights, before the optimizer exists and before a checkpoint is loaded.

        A part may freeze parameters here. It must not change weights nor leave gradients behind.
        """

    def after_step(self, model: nn.Module) -> None:
        """Called after every optimizer step.

        Args:
            model: The model, not wrapped; its weights may be changed in place.
        """
