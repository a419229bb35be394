"""Distance of hidden states to the target's on the retain set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import RequestError
from .. import RETAIN_LOSSES
from ..base import LabelScores, Loss, LossSum, count_rows, given


@RETAIN_LOSSES.register(
    "hidden",
    summary="Squared distance of one layer's hidden states to those of the target model.",
    paper="arXiv 2403.03218",
    defaults={"layer": 7},
    needs=("retain", "reference", "hidden states"),
)
@dataclass(frozen=True)
class HiddenRetainLoss(Loss):
    r"""Keeps one decoder layer's hidden states on retain text at the target's.

    .. math:: L = \frac{1}{B} \sum_i \frac{1}{|y_i|} \sum_t
              \left\lVert h^{(\ell)}_{i,t} - h^{(\ell),ref}_{i,t} \right\rVert_2^2

    with ``B`` the rows of the global batch and positions as in ``rmu``, whose retain term this is. Zero at the target.

    Cost: a forward and a backward pass that end at the layer, unless the forget loss goes on; one vector for every
    retain label is kept of the target.

    Args:
        layer: Index of the layer from 0; the one that ``rmu`` steers.

    Raises:
        RequestError: If ``layer`` is negative.

    Source: Li et al. (arXiv 2403.03218), whose code takes the mean over the width where the formula has the sum.
    """

    layer: int = 7

    uses_logits: ClassVar[bool] = False
    uses_reference_hidden: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise RequestError(f"hidden: layer is {self.layer}; layers are counted from 0")

    @property
    def hidden_layer(self) -> int | None:
        """The layer that is held."""
        return self.layer

    def count(self, labels: Tensor) -> Tensor:
        """Rows of ``[batch, time]`` that have labels."""
        return count_rows(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over the rows that have labels; needs ``hidden`` and ``reference_hidden``, both ``[N, width]``."""
        hidden = given(scores.hidden, "hidden states")
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        reference = given(scores.reference_hidden, "hidden states of the reference model").to(wide)
        return scores.mean_over_rows((wide - reference).square().sum(dim=-1))
