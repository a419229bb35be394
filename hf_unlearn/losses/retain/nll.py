"""Cross-entropy on the retain set."""

from __future__ import annotations

from torch import Tensor

from .. import RETAIN_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


@RETAIN_LOSSES.register(
    "nll",
    summary="Gradient descent on the retain answers (the second half of gradient difference).",
    paper="arXiv 2203.12817",
    needs=("retain",),
)
class NLLRetainLoss(Loss):
    r"""Negative log-likelihood of the retain labels, averaged over tokens.

    .. math:: L = -\frac{1}{N} \sum_{i,t} \log p_\theta(y_{i,t} \mid x_i, y_{i,<t})

    with ``N`` the number of label tokens of the global batch. Together with gradient ascent this is known as gradient
    difference.

    Cost: a forward and a backward pass; no reference.

    Source: Liu et al., *Continual Learning and Private Unlearning* (arXiv 2203.12817).
    """

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Minus the sum of label log-probabilities over ``[N]`` positions."""
        return LossSum(-scores.logps.sum(), scores.n_labels)
