"""Sharpness-aware unlearning: the forget gradient is taken where forgetting is undone fastest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import RequestError
from . import ROBUST
from .base import Gradients, StepContext, StepResult, TermName, TrainingPart, View
from .weights import exchanged, trained_parameters


@ROBUST.register(
    "sam",
    summary="The forget gradient is taken at the worst weights within a small distance.",
    paper="arXiv 2502.05374, section 4; arXiv 2010.01412",
    defaults={"rho": 0.01, "every": 1},
)
@dataclass
class SAM(TrainingPart):
    r"""Sharpness-aware minimization of the forget term; the retain term sees the weights as they are.

    .. math::
        \epsilon = \rho \, \frac{g}{\lVert g \rVert_2}, \quad g = \nabla_\theta L_{forget}(\theta), \qquad
        \theta \leftarrow \theta - \eta \, [\nabla L_{forget}(\theta + \epsilon) + \nabla L_{retain}(\theta)]

    An attacker who relearns moves the weights a little in the direction that undoes forgetting; here that move is made
    before the gradient is taken. The norm runs over all trained weights together. ``g`` is the gradient of the whole
    optimizer step, all its micro-batches on all processes, so accumulation changes nothing but rounding; the
    released code perturbs each micro-batch by its own gradient, which is a different method for every batch size.

    Cost: a forward and a backward pass more of the forget rows in each perturbed step, the two terms computed
    separately, and one copy of the trained weights.

    Args:
        rho: Distance, in the Euclidean norm over all trained weights. The paper uses 0.01 for MUSE and WMDP.
        every: Perturb only every this many steps; the others use the plain gradient.

    Raises:
        RequestError: A value is out of range.

    Source: Fan et al., *Towards LLM Unlearning Resilient to Relearning Attacks* (arXiv 2502.05374); SAM itself is
    by Foret et al. (arXiv 2010.01412, eq. 2).
    """

    makes_views: ClassVar[bool] = True

    rho: float = 0.01
    every: int = 1
    _moved: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _weights: dict[str, nn.Parameter] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rho <= 0:
            raise RequestError(f"sam: rho is {self.rho}, it must be above 0")
        if self.every < 1:
            raise RequestError(f"sam: every is {self.every}, it must be at least 1")

    @property
    def passes(self) -> int:
        """One to find where to move, one there."""
        return 2

    def before_step(self, context: StepContext) -> None:
        """Finds the weights that the forget gradient will be taken at."""
        self._moved = {}
        if context.step % self.every == 0:
            self._weights = trained_parameters(context.model)
            self._moved = perturbed(self._weights, context.term_gradients("forget"), self.rho)

    def views(self, term: TermName) -> Sequence[View]:
        """The forget term is seen at the perturbed weights, if there is a direction to perturb them in."""
        if term != "forget" or not self._moved:
            return ()
        return (View("sam", lambda: exchanged((self._weights[name], moved) for name, moved in self._moved.items())),)

    def after_step(self, result: StepResult) -> None:
        """The memory of the perturbed weights is freed before the next gradients are taken."""
        self._moved = {}


@torch.no_grad()
def perturbed(weights: dict[str, nn.Parameter], gradients: Gradients, rho: float) -> dict[str, Tensor]:
    """``w + rho * g / |g|`` for every weight with a gradient; nothing if all gradients are zero.

    Args:
        weights: By name.
        gradients: By the same names; their memory is used for the result.
        rho: Length of the move.
    """
    squares = (torch.linalg.vector_norm(gradient, dtype=torch.float64).item() ** 2 for gradient in gradients.values())
    norm = math.sqrt(sum(squares))
    if norm == 0:
        return {}
    return {name: gradient.mul_(rho / norm).add_(weights[name]) for name, gradient in gradients.items()}
