"""Cross-entropy on the forget set: learning it, for procedures that turn what was learned around."""

from __future__ import annotations

from torch import Tensor

from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


@FORGET_LOSSES.register(
    "nll",
    summary="Learns the forget rows' labels: for task-vector and who-is-harry-potter only; alone it unlearns nothing.",
    paper="arXiv 2212.04089 and arXiv 2310.02238, where it is a step of the method",
)
class LearningLoss(Loss):
    r"""Negative log-likelihood of the forget labels, averaged over tokens.

    .. math:: L = -\frac{1}{N} \sum_{i,t} \log p_\theta(y_{i,t} \mid x_i, y_{i,<t})

    with ``N`` the number of label tokens of the global batch. Minus the loss of gradient ascent: a model that is
    trained with it learns its forget set. It is a step of procedures that use the opposite of what was learned
    (``task-vector``) or that give the rows other labels (``who-is-harry-potter``).

    Cost: a forward and a backward pass; no reference.
    """

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Minus the sum of label log-probabilities over ``[N]`` positions."""
        return LossSum(-scores.logps.sum(), scores.n_labels)
