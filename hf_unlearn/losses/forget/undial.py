"""Distillation from the target with the true token's logit turned down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens, given, log_softmax


@FORGET_LOSSES.register(
    "undial",
    summary="Self-distillation: cross-entropy to the target's own distribution with the true token turned down.",
    paper="arXiv 2402.10052",
    defaults={"beta": 10.0},
    needs=("reference",),
)
@dataclass(frozen=True)
class UndialLoss(Loss):
    r"""Learns the target's distribution with the true token's logit lowered by a fixed amount.

    .. math:: L = -\frac{1}{N} \sum_{i,t} \sum_v q_{i,t}(v) \log p_\theta(v \mid x_i, y_{i,<t}), \qquad
              q_{i,t} = \mathrm{softmax}\left(z^{ref}_{i,t} - \beta \, e_{y_{i,t}}\right)

    with ``N`` the label tokens of the global batch and :math:`e_y` one at the true token. Bounded below by the entropy
    of ``q``, which does not change: no need to stop early.

    Cost: a forward and a backward pass; the reference's logits come from cached hidden states of the forget labels.

    The public implementation also averages over prompt and padding positions, where it lowers the logit of the last
    token of the vocabulary (an index of -100 is turned around). Prompt and padding have no part here.

    Args:
        beta: How much the true token's logit is lowered, greater than zero. 3, 10 and 30 are usual; the authors train
            adapters of rank 8 at 1e-4 without a retain term.

    Raises:
        RequestError: If ``beta`` is not greater than zero.

    Source: Dong et al., *UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language
    Models* (arXiv 2402.10052).
    """

    beta: float = 10.0

    uses_reference_logits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise RequestError(f"beta is {self.beta}: UNDIAL lowers a logit by an amount above 0 (10 is usual)")

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over ``[N]`` positions; needs ``reference_logits`` of shape ``[N, vocabulary]``."""
        reference = given(scores.reference_logits, "the logits of the reference model")
        wide = reference.to(torch.promote_types(reference.dtype, torch.float32))
        labels = scores.labels.unsqueeze(-1)
        lowered = wide.scatter_add(-1, labels, torch.full_like(labels, -self.beta, dtype=wide.dtype))
        return LossSum(-(log_softmax(lowered).exp() * scores.all_logps).sum(), scores.n_labels)
