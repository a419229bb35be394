"""No retain term."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import RETAIN_LOSSES
from ..base import LabelScores, Loss, LossSum


@RETAIN_LOSSES.register("none", summary="No retain loss: nothing keeps the rest of the model in place.")
class NoRetainLoss(Loss):
    """Always zero.

    Cost: none; no retain rows are read and none go through the model.
    """

    def count(self, labels: Tensor) -> Tensor:
        """Zero."""
        return labels.new_zeros(())

    def __call__(self, scores: LabelScores) -> LossSum:
        """Zero, counting nothing."""
        return LossSum(scores.labels.new_zeros((), dtype=torch.float32), scores.labels.new_zeros(()))
