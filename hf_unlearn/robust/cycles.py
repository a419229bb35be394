"""Cycles of unlearning and healing: what healing brings back is unlearned again, until nothing comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..errors import RequestError
from . import ROBUST
from .base import StepContext, TermWeights, TrainingPart


@ROBUST.register(
    "cycles",
    summary="Rounds of forget steps alone and retain steps alone, each with a fresh optimizer.",
    paper="this project (see docs/cycles.md)",
    defaults={"unlearn_steps": 30, "heal_steps": 50, "perturb": 0.0, "rounds": 0},
    needs=("retain",),
)
@dataclass(frozen=True)
class Cycles(TrainingPart):
    """Alternates between the forget term alone and the retain term alone.

    One pass of unlearning hides: healing on retain rows only brings most forget facts back, even after the model has
    collapsed. What comes back can be unlearned again, and after enough rounds nothing comes back, under retraining
    either. Rounds follow from the run's ``max_steps``; a last unlearning phase that has no healing after it would
    leave the model damaged, so ``max_steps`` should be a multiple of a round.

    Attributes:
        unlearn_steps: Optimizer steps on the forget term at the start of a round.
        heal_steps: Optimizer steps on the retain term that end it.
        perturb: Before healing, weights move by this share towards noise (as in UNDO, arXiv 2506.06278).
        rounds: After so many rounds only the retain term goes on; 0 for no end.
    """

    needs_retain: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = False

    unlearn_steps: int = 30
    heal_steps: int = 50
    perturb: float = 0.0
    rounds: int = 0

    def __post_init__(self) -> None:
        for name in ("unlearn_steps", "heal_steps"):
            if getattr(self, name) < 1:
                raise RequestError(f"cycles: {name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.perturb < 1:
            raise RequestError(f"cycles: perturb is {self.perturb}; it must be a share from 0 to under 1")
        if self.rounds < 0:
            raise RequestError(f"cycles: rounds is {self.rounds}; use 0 for no end")

    def term_weights(self, step: int) -> TermWeights:
        """Forget alone, then retain alone."""
        round_number, position = divmod(step, self.unlearn_steps + self.heal_steps)
        ended = self.rounds and round_number >= self.rounds
        unlearning = not ended and position < self.unlearn_steps
        return TermWeights(forget=1.0, retain=0.0) if unlearning else TermWeights(forget=0.0, retain=1.0)

    def before_step(self, context: StepContext) -> None:
        """Momentum of one phase would carry its direction into the next: each starts without any."""
        round_number, position = divmod(context.step, self.unlearn_steps + self.heal_steps)
        if position in (0, self.unlearn_steps):
            context.optimizer.state.clear()
        if self.perturb and position == self.unlearn_steps and not (self.rounds and round_number >= self.rounds):
            perturb_weights(context.model, self.perturb, seed=context.step)


@torch.no_grad()
def perturb_weights(model: nn.Module, share: float, seed: int) -> None:
    """Move every trained matrix towards noise of its own scale: ``W <- (1 - share) W + share * std(W) * N(0, 1)``.

    Args:
        model: The model; changed in place.
        share: From 0 (nothing) to 1 (noise only).
        seed: Of the noise, so that a resumed run draws the same.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.lerp_(noise * parameter.std(), share)
