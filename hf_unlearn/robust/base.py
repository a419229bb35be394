"""The two moments of a training run at which a part may act, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
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


@dataclass(frozen=True)
class TermWeights:
    """Factors on the loss terms of one step."""

    forget: float = 1.0
    retain: float = 1.0


class TrainingPart:
    """Does nothing; a part overrides the moment it needs.

    Attributes:
        needs_retain: Whether it makes no sense without a retain loss.
    """

    needs_retain: ClassVar[bool] = False

    def prepare(self, context: TrainingContext) -> None:
        """Called once, at the original weights, before the optimizer exists and before a checkpoint is loaded.

        A part may freeze parameters here. It must not change weights nor leave gradients behind.
        """

    def term_weights(self, step: int) -> TermWeights:
        """Factors on the two loss terms in a step, besides the configured weights. A term with factor 0 costs nothing.

        Args:
            step: Optimizer steps taken so far.
        """
        return TermWeights()

    def before_step(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Called before every optimizer step's first forward pass.

        Args:
            step: Optimizer steps taken so far.
            model: The model, not wrapped; its weights may be changed in place.
            optimizer: The optimizer, not wrapped; its state may be changed.
        """

    def after_step(self, model: nn.Module) -> None:
        """Called after every optimizer step.

        Args:
            model: The model, not wrapped; its weights may be changed in place.
        """
