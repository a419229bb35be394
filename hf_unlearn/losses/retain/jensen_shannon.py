"""Jensen-Shannon divergence to the target model on the retain set."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from .. import RETAIN_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens, given, log_softmax


@RETAIN_LOSSES.register(
    "jensen-shannon",
    summary="Jensen-Shannon divergence to the target model's next-token distribution; bounded by log 2.",
    paper="arXiv 2509.02820",
    needs=("retain", "reference"),
)
class JensenShannonRetainLoss(Loss):
    r"""Symmetric, bounded divergence from the target, averaged over label positions.

    .. math:: L = \frac{1}{N} \sum_{i,t} \tfrac12 \left[KL(p_\theta \| m) + KL(p_{ref} \| m)\right], \qquad
              m = \tfrac12 (p_\theta + p_{ref})

    Zero at the target; at most log 2 per token, so a single outlying token cannot dominate a step. Near the target
    it is an eighth of the Fisher distance, against a half for ``kl``: a weight four times as large holds as firmly.

    Cost: a forward and a backward pass; of the target the hidden states that go into its output head are kept for
    every retain label, as for ``kl``.

    Source: Singh et al. (arXiv 2509.02820).
    """

    uses_reference_logits: ClassVar[bool] = True

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over ``[N]`` positions; needs ``reference_logits`` of shape ``[N, vocabulary]``."""
        own = scores.all_logps
        other = log_softmax(given(scores.reference_logits, "the logits of the reference model")).to(own)
        middle = torch.logaddexp(own, other) - math.log(2)
        divergence = own.exp() * (own - middle) + other.exp() * (other - middle)
        return LossSum(0.5 * divergence.sum(), scores.n_labels)
