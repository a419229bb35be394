"""A short polish at the end: the last steps use a margin loss in place of the method's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import RequestError
from ..losses.base import Loss
from ..losses.forget.margin import MarginLoss
from ..losses.forget.margin_to_reference import MarginToReferenceLoss
from . import ROBUST
from .base import TrainingPart


@ROBUST.register(
    "margin-polish",
    summary="The last share of steps pushes each true token's margin below kappa, whatever the loss was before.",
    paper="arXiv 2607.27836",
    defaults={"share": 0.2, "kappa": 1.0, "to_reference": False},
)
@dataclass(frozen=True)
class MarginPolish(TrainingPart):
    r"""After most of the steps, the forget loss becomes a hinge on the margin of the true token.

    .. math:: L = \frac{1}{N} \sum_{i,t} \max(0, m_{i,t} + \kappa) \quad \text{in the last} \quad
              \lceil \text{share} \cdot \text{steps} \rceil \quad \text{steps}

    Likelihood losses let go of a token long before another one clearly leads; the hinge continues until it trails
    by ``kappa`` logits, and pushes no further. Retain loss, weights and optimizer go on as they were.

    Cost: none besides the method's own steps; with ``to_reference`` the target's last hidden states at the forget
    labels are kept.

    Args:
        share: Of the run's steps, above 0 and below 1. The paper's polish is short; a tenth to a fifth is our choice.
        kappa: See :class:`~hf_unlearn.losses.forget.margin.MarginLoss`.
        to_reference: Measure from the reference's own margins, see
            :class:`~hf_unlearn.losses.forget.margin_to_reference.MarginToReferenceLoss`. For a ``ref_model`` that was
            trained without the forget set.

    Raises:
        RequestError: If a value is out of range.

    Source: *Margin Calibration* (arXiv 2607.27836); only the paper's abstract was available.
    """

    needs_whole_weights: ClassVar[bool] = False

    share: float = 0.2
    kappa: float = 1.0
    to_reference: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise RequestError(f"margin-polish: share is {self.share}; it must be above 0 and below 1")
        self._polish()

    def _polish(self) -> MarginLoss:
        return (MarginToReferenceLoss if self.to_reference else MarginLoss)(self.kappa)

    def check(self, config: Any) -> None:
        """Refuses a run whose forget loss is already a margin.

        Raises:
            RequestError: The polish would change nothing.
        """
        if isinstance(config.build_forget_loss(), MarginLoss):
            raise RequestError("margin-polish: the forget loss is a margin from the start: leave the polish out")

    def further_forget_losses(self) -> Sequence[Loss]:
        """The hinge."""
        return (self._polish(),)

    def forget_loss(self, loss: Loss, step: int, steps: int) -> Loss:
        """The hinge in the last steps."""
        return self._polish() if step >= steps - math.ceil(self.share * steps) else loss
