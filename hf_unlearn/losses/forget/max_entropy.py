"""Uniform guessing as the aim of forgetting."""

from __future__ import annotations

import math

from torch import Tensor

from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


@FORGET_LOSSES.register(
    "max-entropy",
    summary="KL divergence from the uniform distribution, which makes every token equally likely at answer positions.",
    paper="arXiv 2410.08109",
)
class MaxEntropyLoss(Loss):
    r"""Drives the next-token distribution at the answer's positions towards uniform.

    .. math:: L = \frac{1}{N} \sum_{i,t} KL\left(p_\theta(\cdot \mid x_i, y_{i,<t}) \,\|\, U\right)
              = \frac{1}{N} \sum_{i,t} \left(\log V - H(p_\theta(\cdot \mid x_i, y_{i,<t}))\right)

    with ``N`` the label tokens of the global batch, ``V`` the vocabulary and ``H`` the entropy in nats. Bounded below
    by zero, and blind to which token was the true one. A model that never knew is not uniform, so this goes past it:
    watch the recovered share for values below zero.

    Cost: a forward and a backward pass; no reference.

    Source: Yuan et al., *A Closer Look at Machine Unlearning for Large Language Models* (arXiv 2410.08109).
    """

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over ``[N]`` positions."""
        logps = scores.all_logps
        negative_entropy = (logps.exp() * logps).sum()
        return LossSum(negative_entropy + scores.labels.numel() * math.log(logps.shape[-1]), scores.n_labels)
