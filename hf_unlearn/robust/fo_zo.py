"""FO-ZO: blocks of ordinary steps and of zeroth-order steps in turn, the last of them zeroth-order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import RequestError
from . import ROBUST
from .base import StepContext, StepResult, TermWeights, TrainingContext, TrainingPart
from .weights import exchanged, trained_parameters

_APART = 1_000_003
"""A large odd factor keeps the random streams of neighbouring seeds and steps apart."""


@ROBUST.register(
    "fo-zo",
    summary="Ordinary steps and two-point zeroth-order steps in turn, ending zeroth-order; for any pair of losses.",
    paper="arXiv 2510.00761",
    defaults={"steps": 20, "directions": 1, "mu": 1e-3, "rate": 0.1, "seed": 0},
)
@dataclass
class FirstAndZerothOrder(TrainingPart):
    r"""A simpler optimizer every other block of steps: it ends in places that are harder to leave.

    In a zeroth-order step no gradient is taken. The objective ``f`` of the step, both losses with their weights, is
    looked at on both sides of the weights along random directions, and the weights move against the slope:

    .. math:: \theta \leftarrow \theta - \eta \hat g, \qquad \hat g = \frac{1}{q} \sum_{i=1}^q
              \frac{f(\theta + \mu v_i) - f(\theta - \mu v_i)}{2 \mu} \, v_i

    with :math:`v_i` uniform on the sphere on which a weight is 1 in the root mean square. Its mean is the gradient of
    the objective smoothed over such moves. Ordinary steps are those of the run's own optimizer, Adam in the paper.

    Blocks are ``steps`` long and are counted from the end of the run, so that the last one is zeroth-order; what is
    left over at the beginning is ordinary.

    Differences: the paper's zeroth-order steps are those of AdaZO, an estimator with less variance that could not be
    read. Here they are plain, at ``rate`` times the run's current learning rate, without momentum and weight decay,
    and slopes are clipped at 1: along one direction a weight then moves, in the root mean square, by at most ``rate``
    times what Adam's first step does. Without that a small model was destroyed. The paper's directions have length 1,
    so its ``mu`` and rate are larger by the square root of the number of weights, and by that number.

    Cost: a zeroth-order step takes ``2 * directions`` forward passes of its rows and no backward pass, and one
    transient copy of the trained weights. Its losses are logged as means over both sides, ``loss`` itself as 0.

    Args:
        steps: Steps in a block, at least 1; 20 in the paper, as many of each kind.
        directions: ``q``, at least 1.
        mu: Move of a weight in the root mean square, above 0.
        rate: Learning rate of zeroth-order steps as a multiple of the run's, above 0.
        seed: Of the directions.

    Raises:
        RequestError: A value is out of range, the run is shorter than two blocks, or it trains in fp16.

    Source: Lang et al., *Downgrade to Upgrade: Optimizer Simplification Enhances Robustness in LLM Unlearning* (arXiv
    2510.00761), read in notes of the full text; its code is not public.
    """

    steps: int = 20
    directions: int = 1
    mu: float = 1e-3
    rate: float = 0.1
    seed: int = 0
    _first: int = field(default=0, init=False, repr=False)
    _made: bool = field(default=False, init=False, repr=False)

    needs_whole_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key in ("steps", "directions"):
            if getattr(self, key) < 1:
                raise RequestError(f"fo-zo: {key} is {getattr(self, key)}; it must be at least 1")
        for key in ("mu", "rate"):
            if not getattr(self, key) > 0:
                raise RequestError(f"fo-zo: {key} is {getattr(self, key)}; it must be above 0")

    def check(self, config: Any) -> None:
        """Refuses fp16, whose loss scaler needs a gradient in every step."""
        if config.fp16:
            raise RequestError("fo-zo: its steps have no gradients for fp16 to scale: use bf16 or float32")

    def prepare(self, context: TrainingContext) -> None:
        """Counts the blocks from the end."""
        if context.max_steps < 2 * self.steps:
            raise RequestError(
                f"fo-zo: {context.max_steps} steps are less than two blocks of {self.steps}: train longer, or"
                " lower steps"
            )
        self._first = context.max_steps % (2 * self.steps)

    def zeroth_order(self, step: int) -> bool:
        """Whether a step is one without gradients.

        Args:
            step: Optimizer steps taken so far.
        """
        return step >= self._first and (step - self._first) // self.steps % 2 == 1

    @torch.no_grad()
    def before_step(self, context: StepContext) -> None:
        """Makes the whole step, if it is a zeroth-order one."""
        if not self.zeroth_order(context.step):
            return
        weights = list(trained_parameters(context.model).values())
        slopes = [self._slope(context, weights, number) for number in range(self.directions)]
        rate = self.rate * context.optimizer.param_groups[0]["lr"] / self.directions
        for number, slope in enumerate(slopes):
            for weight, move in zip(weights, self._direction(weights, context.step, number), strict=True):
                weight.sub_(rate * slope * move)
        self._made = True

    def _slope(self, context: StepContext, weights: Sequence[nn.Parameter], number: int) -> float:
        values = []
        for side in (self.mu, -self.mu):
            moves = self._direction(weights, context.step, number)
            moved = ((weight, weight + side * move) for weight, move in zip(weights, moves, strict=True))
            with exchanged(moved):
                values.append(context.measure(measured=True).total)
        return max(-1.0, min(1.0, (values[0] - values[1]) / (2 * self.mu)))

    def _direction(self, weights: Sequence[nn.Parameter], step: int, number: int) -> Iterator[Tensor]:
        return direction(weights, (self.seed * _APART + step) * _APART + number)

    def term_weights(self, step: int) -> TermWeights:
        """Nothing is left for the optimizer to do in a step that was made here."""
        return TermWeights(0.0, 0.0) if self._made else TermWeights()

    def after_step(self, result: StepResult) -> None:
        """The next step starts anew."""
        self._made = False


def direction(weights: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    """A random direction, uniform on the sphere on which a weight is 1 in the root mean square.

    Args:
        weights: What it has the shapes, types and devices of.
        seed: The same seed gives the same direction.

    Yields:
        One tensor for each weight; they are made one by one.
    """
    squares = sum(float(noise.double().square().sum()) for noise in _noise(weights, seed))
    scale = math.sqrt(sum(weight.numel() for weight in weights) / squares)
    for weight, noise in zip(weights, _noise(weights, seed), strict=True):
        yield (scale * noise).to(weight.dtype)


def _noise(weights: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    generators: dict[torch.device, torch.Generator] = {}
    for weight in weights:
        if weight.device not in generators:
            generators[weight.device] = torch.Generator(weight.device).manual_seed(seed)
        yield torch.randn(weight.shape, generator=generators[weight.device], device=weight.device)
