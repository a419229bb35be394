"""Gradient ascent on the forget set."""

from __future__ import annotations

from torch import Tensor

from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


@FORGET_LOSSES.register(
    "ga",
    summary="Gradient ascent: the likelihood of the forget answers is driven down without limit.",
    paper="arXiv 2210.01504",
)
class GradientAscentLoss(Loss):
    r"""Minimizes the log-likelihood of the forget labels, token by token.

    .. math:: L = \frac{1}{N} \sum_{i,t} \log p_\theta(y_{i,t} \mid x_i, y_{i,<t})

    with ``N`` the number of label tokens of the global batch. This is minus the usual cross-entropy, and has no lower
    bound: keep it short, or use :class:`~hf_unlearn.losses.forget.npo.NPOLoss`.

    Cost: a forward and a backward pass; no reference.

    Source: Jang et al., *Knowledge Unlearning for Mitigating Privacy Risks in Language Models* (arXiv 2210.01504).
    """

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum of label log-probabilities over ``[N]`` positions."""
        return LossSum(scores.logps.sum(), scores.n_labels)
