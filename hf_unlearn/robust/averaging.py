"""Weight averaging: the model that is kept is the mean of the weights along the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import RequestError
from . import ROBUST
from .base import StepContext, TrainingContext, TrainingPart
from .shard_files import save_shard, with_shard
from .weights import load_tensors, save_tensors

AVERAGE_FILE = "weight_averaging.safetensors"
_COUNT = "/count"
"""No parameter has a slash in its name."""


@ROBUST.register(
    "weight-averaging",
    summary="The mean of the weights over the last steps is kept instead of the last weights.",
    paper="arXiv 2502.05374, section 5 (WA); arXiv 1803.05407",
    defaults={"start": 0.5, "every": 1, "decay": 0.0},
)
@dataclass
class WeightAveraging(TrainingPart):
    r"""Averages the weights after optimizer steps; training itself is not affected.

    .. math::
        \bar\theta \leftarrow \frac{n \bar\theta + \theta}{n + 1} \quad \text{or} \quad
        \bar\theta \leftarrow d \, \bar\theta + (1 - d) \, \theta

    The mean lies in a flatter place than its members, so more of it survives small changes of the weights. At
    the end the model gets the mean; checkpoints hold the trained weights and the mean.

    Cost: one copy of the trained weights, or of a process's shards, in memory and in each checkpoint; no forward or
    backward pass.

    Args:
        start: Share of the run's steps after which averaging begins. 0 counts from the weights after the first step.
        every: Include the weights after every this many steps.
        decay: 0 for the plain mean (as in SWA), else ``d`` of the exponential mean.

    Raises:
        RequestError: A value is out of range.

    Source: Fan et al., *Towards LLM Unlearning Resilient to Relearning Attacks* (arXiv 2502.05374), who take it
    from Izmailov et al. (arXiv 1803.05407). ``start`` and ``every`` are this project's choice.
    """

    needs_whole_weights: ClassVar[bool] = False
    uses_trained_weights: ClassVar[bool] = True

    start: float = 0.5
    every: int = 1
    decay: float = 0.0
    _context: TrainingContext | None = field(default=None, init=False, repr=False)
    _mean: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _count: int = field(default=0, init=False, repr=False)
    _first: int = field(default=1, init=False, repr=False)
    _seen: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise RequestError(f"weight-averaging: start is {self.start}, it must be a share from 0 to under 1")
        if self.every < 1:
            raise RequestError(f"weight-averaging: every is {self.every}, it must be at least 1")
        if not 0 <= self.decay < 1:
            raise RequestError(f"weight-averaging: decay is {self.decay}, it must lie from 0 to under 1")

    def prepare(self, context: TrainingContext) -> None:
        """Find the first step that counts; the last one always does."""
        self._context = context
        self._first = min(math.floor(self.start * context.max_steps) + 1, max(context.max_steps, 1))

    def before_step(self, context: StepContext) -> None:
        """Includes the weights of the previous step; by now other parts have finished changing them."""
        self._seen = context.step + 1
        self._take(context.step)

    @torch.no_grad()
    def finish(self, context: TrainingContext) -> None:
        """Includes the last weights and gives the model the mean."""
        self._take(self._seen)
        if not self._mean:
            return
        weights = context.trained_weights()
        for name, tensor in weights.tensors().items():
            if name in self._mean:
                tensor.copy_(self._mean[name])
        weights.changed()

    @torch.no_grad()
    def _take(self, steps_made: int) -> None:
        if steps_made < self._first or (steps_made - self._first) % self.every:
            return
        assert self._context is not None  # `prepare` comes before the first step
        self._count += 1
        weights = self._context.trained_weights().tensors()
        if self._count == 1:
            self._mean = {name: tensor.clone() for name, tensor in weights.items()}
            return
        share = (1 - self.decay) if self.decay else 1 / self._count
        for name, tensor in weights.items():
            self._mean[name] = self._mean[name].to(tensor.device).lerp_(tensor, share)

    def save_state(self, folder: Path) -> None:
        """The mean so far; the weights of the checkpoint's own step are included after loading."""
        mean = {} if self._is_sharded else self._mean
        save_tensors(folder / AVERAGE_FILE, {**mean, _COUNT: torch.tensor([self._count, self._seen])})

    def save_shard(self, folder: Path) -> None:
        """The mean of this process's shards."""
        if self._is_sharded:
            save_shard(folder / AVERAGE_FILE, self._mean)

    @property
    def _is_sharded(self) -> bool:
        return self._context is not None and self._context.trained_weights().sharded

    def load_state(self, folder: Path) -> None:
        """Restores the mean."""
        assert self._context is not None
        kept = load_tensors(folder / AVERAGE_FILE, "weight-averaging")
        self._count, self._seen = (int(number) for number in kept.pop(_COUNT))
        weights = self._context.trained_weights()
        self._mean = dict(with_shard(folder / AVERAGE_FILE, kept, weights, "weight-averaging"))
