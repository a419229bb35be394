"""A hinge on the margin of the true token, measured from the one that the reference model has."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .. import FORGET_LOSSES
from ..base import LabelScores, given
from .margin import MarginLoss, label_margins


@FORGET_LOSSES.register(
    "margin-to-reference",
    summary="The same hinge, measured from the margin that each token has under the reference model.",
    paper="arXiv 2607.27836",
    defaults={"kappa": 1.0},
    needs=("reference",),
)
class MarginToReferenceLoss(MarginLoss):
    r"""Pushes the true token's margin to ``kappa`` below the one it has under the reference.

    .. math:: L = \frac{1}{N} \sum_{i,t} \max\left(0, m_{i,t} - m^{ref}_{i,t} + \kappa\right)

    In the paper the reference is a model that was trained without the forget set: give it as ``ref_model``, and the
    forget facts end where a model that never knew them has them. By default the reference is the target; then
    ``kappa`` is how much every true token loses, and has to be as large as what it leads by.

    Cost: a forward and a backward pass; the reference's logits come from cached hidden states of the forget labels.
    """

    uses_reference_logits: ClassVar[bool] = True

    def aim(self, scores: LabelScores) -> Tensor:
        """The margin of each label under the reference model, ``[N]``."""
        return label_margins(given(scores.reference_logits, "the logits of the reference model"), scores.labels)
