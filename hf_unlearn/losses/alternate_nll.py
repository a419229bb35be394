"""Cross-entropy on other answers to the forget prompts, which several forget losses share."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .base import LabelScores, Loss, LossSum, count_tokens


class AlternateNLLLoss(Loss):
    r"""Negative log-likelihood of alternates, averaged over their tokens. The true answers are not looked at.

    .. math:: L = -\frac{1}{N} \sum_{i,t} \log p_\theta(y'_{i,t} \mid x_i, y'_{i,<t})

    with ``y'`` another answer to prompt ``x`` and ``N`` the tokens of all of them in the global batch. Zero at best.
    The true answer is only pushed away as far as another takes its place.
    """

    uses_alternates: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of the alternates, ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Minus the sum of label log-probabilities over ``[N]`` positions of the alternates."""
        return LossSum(-scores.logps.sum(), scores.n_labels)
