"""UNDO: the unlearned model is distilled into a damaged copy of itself, which takes over its outputs and no more."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import RequestError
from . import ROBUST
from .base import StepContext, TermWeights, TrainingContext, TrainingPart
from .weights import load_tensors, refuse_adapters, save_tensors, trained_parameters

TEACHER_FILE = "undo_teacher.safetensors"


@ROBUST.register(
    "undo",
    summary="Unlearn, damage the weights, then distil the unlearned model into them on retain and generic text.",
    paper="arXiv 2506.06278",
    defaults={"unlearn_steps": 100, "alpha": 0.25, "beta": 0.1, "seed": 0},
    needs=("retain", "reference"),
)
@dataclass
class Undo(TrainingPart):
    r"""Unlearn-Noise-Distill-on-Outputs.

    The first ``unlearn_steps`` steps are the method's own, whatever its forget loss. Then the current model becomes
    the teacher, the trained weights are damaged,

    .. math:: \theta \leftarrow (1 - \alpha) \theta + \alpha \beta N,

    with ``N`` noise as matrices are initialized with (Xavier, uniform; zero for vectors), and the rest of the run is
    the retain term alone, whose reference now is the teacher: :math:`KL(p_{teacher} \| p_\theta)` on the retain rows
    and, with ``data.keep_generic``, on generic text. Forget rows are not shown again: what the teacher hides is
    not passed on unless it shows. The optimizer restarts with the second phase; the learning rate
    schedule continues.

    Abilities come back only through distilling, so this takes text and steps: the paper distils 60 to 80 % of a
    pretraining for its strongest setting, and 3,000 steps of 110 rows of 1,024 tokens on WMDP. On a few hundred rows
    the model ends damaged: watch the retain scores.

    The teacher's weights are kept once in the output folder, so a run resumed while it distils ends
    as an uninterrupted one.

    Cost: none in passes; a forward pass over the retain set between the phases.

    Args:
        unlearn_steps: Optimizer steps before the weights are damaged; fewer than the run has.
        alpha: Share of damage, above 0 and up to 1 (then nothing of the weights is left). The paper's WMDP runs: 0.25.
        beta: Size of the noise as a share of an initialization's, from 0 to 1. The released code's default: 0.1.
        seed: Of the noise.

    Raises:
        RequestError: A number is out of range, the retain loss compares with no distribution, or adapters are trained.

    Source: Lee et al., *Distillation Robustifies Unlearning* (arXiv 2506.06278).
    """

    unlearn_steps: int = 100
    alpha: float = 0.25
    beta: float = 0.1
    seed: int = 0
    _distils: bool = field(default=False, init=False, repr=False)
    _teacher: Path = field(default=Path(), init=False, repr=False)
    _writes: bool = field(default=True, init=False, repr=False)

    needs_retain: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.unlearn_steps < 1:
            raise RequestError(f"undo: unlearn_steps is {self.unlearn_steps}; it must be at least 1")
        if not 0 < self.alpha <= 1:
            raise RequestError(f"undo: alpha is {self.alpha}; it must be above 0 and at most 1")
        if not 0 <= self.beta <= 1:
            raise RequestError(f"undo: beta is {self.beta}; it must be from 0 to 1")

    def check(self, config: Any) -> None:
        """Refuses a retain loss that cannot distil, and a run that ends before distilling."""
        if not config.build_retain_loss().uses_reference_logits:
            raise RequestError(
                f"undo distils with the retain loss, and {config.retain_loss_type} compares with no other model's "
                "distribution: set retain_loss_type to kl"
            )
        if 0 <= config.max_steps <= self.unlearn_steps:
            raise RequestError(_too_short(config.max_steps, self.unlearn_steps))

    def prepare(self, context: TrainingContext) -> None:
        """Checks what is only known with the model and the data."""
        refuse_adapters(context.model, "undo")
        if context.max_steps <= self.unlearn_steps:
            raise RequestError(_too_short(context.max_steps, self.unlearn_steps))
        self._teacher, self._writes = context.output_dir / TEACHER_FILE, context.writes

    def term_weights(self, step: int) -> TermWeights:
        """The method's own terms, then the retain term alone."""
        return TermWeights() if step < self.unlearn_steps else TermWeights(forget=0.0, retain=1.0)

    def before_step(self, context: StepContext) -> None:
        """Between the phases the teacher is taken; in a run that is resumed later it is read back."""
        if context.step < self.unlearn_steps or self._distils:
            return
        self._distils = True
        if context.step > self.unlearn_steps:
            self._read_teacher(context)
            return
        if self._writes:
            save_tensors(self._teacher, dict(context.model.named_parameters()))
        context.set_reference()
        damage(context.model, self.alpha, self.beta, self.seed)
        context.optimizer.state.clear()

    def _read_teacher(self, context: StepContext) -> None:
        teacher = load_tensors(self._teacher, "undo")
        student = {name: weight.detach().clone() for name, weight in context.model.named_parameters()}
        _put(context.model, teacher)
        context.set_reference()
        _put(context.model, student)


def _too_short(steps: int, unlearn_steps: int) -> str:
    return (
        f"undo: the run has {steps} steps and unlearn_steps is {unlearn_steps}, so none are left to distil: "
        "raise max_steps or lower unlearn_steps"
    )


@torch.no_grad()
def damage(model: nn.Module, alpha: float, beta: float, seed: int) -> None:
    """Move every trained weight towards noise: ``W <- (1 - alpha) W + alpha beta N``.

    Args:
        model: The model; changed in place.
        alpha: Share of the way.
        beta: Factor on ``N``, which for a matrix ``[out, in]`` is uniform up to ``sqrt(6 / (in + out))`` and for a
            vector zero. Stacked matrices (experts) are taken one by one.
        seed: Of the noise, drawn on the CPU so that every device has the same.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in trained_parameters(model).values():
        if parameter.ndim < 2:
            parameter.mul_(1 - alpha)
            continue
        bound = math.sqrt(6 / (parameter.shape[-1] + parameter.shape[-2]))
        noise = (2 * torch.rand(parameter.shape, generator=generator) - 1) * (bound * beta)
        parameter.lerp_(noise.to(parameter), alpha)


@torch.no_grad()
def _put(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[name])
