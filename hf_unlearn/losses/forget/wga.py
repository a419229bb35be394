"""Gradient ascent that leaves unlikely answers alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


@FORGET_LOSSES.register(
    "wga",
    summary="Weighted gradient ascent: each token is weighted by its probability, so that forgotten ones drop out.",
    paper="arXiv 2502.19301",
    defaults={"beta": 1.0},
)
@dataclass(frozen=True)
class WeightedGradientAscentLoss(Loss):
    r"""Gradient ascent in which a token counts by its own probability.

    .. math:: L = \frac{1}{N} \sum_{i,t} p_{i,t}^{\beta} \log p_{i,t},
              \qquad p_{i,t} = p_\theta(y_{i,t} \mid x_i, y_{i,<t})

    with ``N`` the label tokens of the global batch. Gradients do not flow through the weight.

    Cost: a forward and a backward pass; no reference.

    Args:
        beta: Exponent of the weight, at least zero; 0 is plain gradient ascent.

    Raises:
        RequestError: If an exponent is negative.

    Source: Wang et al., *Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond*
    (arXiv 2502.19301).
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise RequestError(f"beta is {self.beta}: weighted gradient ascent needs a beta of 0 or more")

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum of weighted label log-probabilities over ``[N]`` positions."""
        probabilities = scores.logps.detach().exp()
        weights = probabilities**self.beta
        return LossSum((weights * scores.logps).sum(), scores.n_labels)
