"""Bring to the front what a model knows of the forget set, without touching its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .base import TrainingContext


class LowRank:
    """``y + B A x`` on the output of a linear layer; ``B`` is zero at first, so that nothing changes.

    Args:
        layer: The layer.
        rank: Rows of ``A``.
        generator: Draws ``A``, uniform as a linear layer's own weights are; on the CPU.
    """

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        bound = 1 / math.sqrt(layer.in_features)
        first = (torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) * bound
        self.down = first.to(layer.weight).requires_grad_(True)
        self.up = torch.zeros(layer.out_features, rank).to(layer.weight).requires_grad_(True)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """A forward hook."""
        return output + (inputs[0] @ self.down.mT) @ self.up.mT

    @torch.no_grad()
    def step(self, loss_gradients: tuple[Tensor | None, ...], rate: float) -> None:
        """One step of plain gradient descent."""
        for weight, gradient in zip((self.down, self.up), loss_gradients, strict=True):
            if gradient is not None:
                weight.sub_(rate * gradient)


@contextmanager
def elicited(
    context: TrainingContext, layers: Mapping[str, nn.Linear], rate: float, rank: int, seed: int
) -> Iterator[None]:
    """The model with low-rank additions that learned the forget rows in one pass of SGD, as long as this lasts.

    Args:
        context: The run, before its first step.
        layers: Which layers get an addition.
        rate: Learning rate; 0 for no additions at all.
        rank: Of the additions.
        seed: Of where they start.
    """
    if rate == 0:
        yield
        return
    generator = torch.Generator().manual_seed(seed)
    additions = [LowRank(layer, rank, generator) for layer in layers.values()]
    hooks = zip(layers.values(), additions, strict=True)
    handles = [layer.register_forward_hook(addition) for layer, addition in hooks]
    weights = [weight for addition in additions for weight in (addition.down, addition.up)]
    try:
        for batch in context.batches(context.forget_rows):
            loss = -context.score(batch).logps.mean()
            found = torch.autograd.grad(loss, weights, allow_unused=True)
            for number, addition in enumerate(additions):
                addition.step((found[2 * number], found[2 * number + 1]), rate)
        yield
    finally:
        for handle in handles:
            handle.remove()
