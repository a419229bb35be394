"""Task-vector negation: learn the forget set more, then move the other way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import RequestError
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .weights import Weights, trained_parameters

_FIRST_HALF = ("lora_A", "lora_embedding_A")


@ROBUST.register(
    "task-vector",
    summary="The weights move in the direction opposite to fine-tuning on the forget set.",
    paper="arXiv 2212.04089",
    defaults={"alpha": 5.0},
)
@dataclass
class TaskVector(TrainingPart):
    r"""Negates the task vector of the forget set.

    .. math:: \theta_u = \theta_o - \alpha \left(\theta_{ft} - \theta_o\right)

    with the original weights :math:`\theta_o` and those after training on the forget set :math:`\theta_{ft}`. The
    run's own training is the fine-tuning, so it needs ``loss_type: nll`` and is best left without a retain loss; a run
    that is resumed ends as an uninterrupted one. MUSE fine-tunes for ten epochs at 1e-5.

    With new LoRA adapters, whose product is the difference, their second factor is what is scaled: that is the same.

    Cost: the fine-tuning; a copy of the trained weights in the CPU's memory.

    Args:
        alpha: How far to go the other way, above 0. MUSE uses 5 on Books (and 1 as its code's default).

    Raises:
        RequestError: ``alpha`` is not above 0, the forget loss is another one, or the adapters are not plain LoRA.

    Source: Ilharco et al., *Editing Models with Task Arithmetic* (arXiv 2212.04089), as a baseline in Shi et al.,
    *MUSE* (arXiv 2407.06460).
    """

    alpha: float = 5.0
    _original: Weights | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise RequestError(f"task-vector: alpha is {self.alpha}; it must be above 0")

    def check(self, config: Any) -> None:
        """Refuses a forget loss that does not learn."""
        if config.loss_type != "nll":
            raise RequestError(
                f"task-vector negates what was learned of the forget set, and {config.loss_type} does not learn it: "
                "set loss_type to nll"
            )

    @torch.no_grad()
    def prepare(self, context: TrainingContext) -> None:
        """Keeps the original weights."""
        trained = trained_parameters(context.model)
        if hasattr(context.model, "peft_config"):
            fresh = all(not weight.any() for name, weight in trained.items() if "lora_B" in name)
            if any("lora_magnitude" in name for name in trained) or not fresh:
                raise RequestError(
                    "task-vector: only new LoRA adapters can be negated, not DoRA nor adapters that were trained "
                    "before: merge them into the model first, or train all weights"
                )
        self._original = Weights(context.model)

    def finish(self, context: TrainingContext) -> None:
        """Moves the weights the other way."""
        assert self._original is not None  # prepare was called
        learned = Weights(context.model)
        self._original.change(context.model, learned, self._negated)

    def _negated(self, name: str, delta: torch.Tensor) -> torch.Tensor:
        # Only one of the two factors is negated, or their product would not change.
        return delta if any(part in name for part in _FIRST_HALF) else -self.alpha * delta
