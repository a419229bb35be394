"""Random smoothing: forgetting must hold on average over small random changes of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import RequestError
from . import ROBUST
from .base import StepContext, TermName, TrainingPart, View
from .weights import exchanged, trained_parameters

_APART = 1_000_003
"""A large odd factor keeps the random streams of neighbouring seeds and steps apart."""


@ROBUST.register(
    "smoothing",
    summary="The forget gradient is the mean over several draws of noise on the weights.",
    paper="arXiv 2502.05374, section 5 (RS)",
    defaults={"sigma": 1e-4, "draws": 3, "relative": False, "seed": 0},
)
@dataclass
class Smoothing(TrainingPart):
    r"""Minimizes the mean forget loss over Gaussian noise on all trained weights.

    .. math:: \tilde L_{forget}(\theta) = E_{\delta \sim N(0, \sigma^2 I)} [L_{forget}(\theta + \delta)]

    The mean is taken over ``draws`` draws, new ones in every step, the same for all its micro-batches and processes.
    They depend on seed, step and number of the draw, so a resumed run draws the same, and they are regenerated
    for each pass instead of being kept. The retain term sees the weights as they are.

    Cost: ``draws`` forward and backward passes of the forget rows instead of one, the two terms computed separately,
    and one transient copy of the trained weights.

    Args:
        sigma: Standard deviation of the noise. The released code uses 1e-4 with 3 draws; it also makes two optimizer
            steps in each step, which is not done here.
        draws: Draws in each step.
        relative: Multiply ``sigma`` by the standard deviation of each weight tensor (tensors of one element, and
            constant ones, then stay as they are).
        seed: Seed of the draws.

    Raises:
        RequestError: A value is out of range.

    Source: Fan et al., *Towards LLM Unlearning Resilient to Relearning Attacks* (arXiv 2502.05374).
    """

    makes_views: ClassVar[bool] = True

    sigma: float = 1e-4
    draws: int = 3
    relative: bool = False
    seed: int = 0
    _step: int = field(default=0, init=False, repr=False)
    _model: nn.Module | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise RequestError(f"smoothing: sigma is {self.sigma}, it must be above 0")
        if self.draws < 1:
            raise RequestError(f"smoothing: draws is {self.draws}, it must be at least 1")

    @property
    def passes(self) -> int:
        """One for each draw."""
        return self.draws

    def before_step(self, context: StepContext) -> None:
        """Each step has draws of its own."""
        self._step, self._model = context.step, context.model

    def views(self, term: TermName) -> Sequence[View]:
        """The forget term is seen under every draw."""
        if term != "forget":
            return ()
        return [View(f"smoothing-{number}", partial(self._enter, number)) for number in range(self.draws)]

    def _enter(self, number: int) -> AbstractContextManager[None]:
        assert self._model is not None  # `before_step` comes first
        weights = trained_parameters(self._model).values()
        return exchanged(zip(weights, self._noisy(list(weights), number), strict=True))

    def _noisy(self, weights: Sequence[nn.Parameter], number: int) -> Iterator[Tensor]:
        seed = (self.seed * _APART + self._step) * _APART + number
        generators: dict[torch.device, torch.Generator] = {}
        for weight in weights:
            if weight.device not in generators:
                generators[weight.device] = torch.Generator(weight.device).manual_seed(seed)
            noise = torch.randn(weight.shape, generator=generators[weight.device], device=weight.device)
            scale = float(torch.nan_to_num(weight.std())) if self.relative else 1.0
            yield weight + (self.sigma * scale) * noise.to(weight.dtype)
