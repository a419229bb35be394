"""The trained weights as a process of a run holds them: whole, or its shards of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models.sharding import reshard
from ..models.training_loop import Stepping
from .weights import trained_parameters


class TrainedWeights:
    """Whole weights, in one process or in each (DDP).

    Args:
        model: The model, not wrapped.

    Attributes:
        sharded: Whether each process holds a part. All processes then have to make the same forward and backward
            passes, and what shards the weights averages the gradients.
    """

    sharded: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def tensors(self) -> dict[str, Tensor]:
        """What is trained, by name: the tensors themselves, which may be changed in place without gradients."""
        return {name: parameter.detach() for name, parameter in self._parameters().items()}

    def copied(self) -> dict[str, Tensor]:
        """Copies of :meth:`tensors` on the CPU."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self.tensors().items()}

    def changed(self) -> None:
        """Makes the model follow :meth:`tensors` after these were changed in place. All processes call it together."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """The backward pass of one micro-batch.

        Args:
            loss: A scalar with a graph.
            last: Whether it is the last micro-batch of its step.
        """
        loss.backward()

    @contextmanager
    def adamw(self, rate: float, max_grad_norm: float) -> Iterator[Stepping]:
        """A new AdamW without weight decay that steps these weights; the run's own optimizer is left alone.

        Args:
            rate: Its learning rate.
            max_grad_norm: What gradients are clipped to, over all weights, if they cannot be clipped from outside.
        """
        yield torch.optim.AdamW(self._parameters().values(), lr=rate, weight_decay=0.0)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return trained_parameters(self._model)


class ShardedWeights(TrainedWeights):
    """The shards that a process holds under FSDP2."""

    sharded: ClassVar[bool] = True

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """Of each weight the part that this process holds."""
        held: dict[str, Any] = dict(self._parameters())
        return {name: parameter.to_local() for name, parameter in held.items()}

    def _parameters(self) -> dict[str, nn.Parameter]:
        reshard(self._model)
        return trained_parameters(self._model)
