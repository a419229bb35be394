"""The loop of every small training outside the trainer: gradients of a batch, clipped, one step, no gradients left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

Batch = TypeVar("Batch")


class Stepping(Protocol):
    """What :func:`take_steps` needs of an optimizer."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self) -> None:
        """Drops all gradients."""

    def step(self) -> Any:
        """Makes a step."""


class DivergedError(Exception):
    """A loss is not finite. No step was made with it.

    Attributes:
        loss: The loss.
        batch: Which batch of the loop it was, from 0; set by :func:`take_steps`.
    """

    def __init__(self, loss: float) -> None:
        super().__init__(f"the loss is {loss}")
        self.loss = loss
        self.batch = 0


def finite(loss: float) -> float:
    """The loss itself.

    Raises:
        DivergedError: It is infinite or not a number.
    """
    if not math.isfinite(loss):
        raise DivergedError(loss)
    return loss


def take_steps(
    optimizer: torch.optim.Optimizer | Stepping,
    batches: Iterable[Batch],
    add_gradients: Callable[[Batch], None],
    *,
    max_grad_norm: float,
    schedule: Any = None,
) -> None:
    """Take one optimizer step for each batch.

    Args:
        optimizer: Holds the weights that are trained. They have no gradients before the first batch and after the
            last one.
        batches: One item for each step.
        add_gradients: Adds the gradients of the loss of one batch to the weights. Raises :class:`DivergedError`, best
            by :func:`finite`, to end the training before a step is made with a loss that is not finite.
        max_grad_norm: Gradients are clipped to this norm, over all weights; 0 for no clipping.
        schedule: Learning-rate schedule that advances after each step.

    Raises:
        DivergedError: See ``add_gradients``.
    """
    from torch.nn.utils import clip_grad_norm_

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        try:
            add_gradients(batch)
        except DivergedError as error:
            error.batch = number
            raise
        if max_grad_norm:
            clip_grad_norm_(weights, max_grad_norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    optimizer.zero_grad()
