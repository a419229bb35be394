"""Gradient ascent weighted by saturation and importance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


@FORGET_LOSSES.register(
    "satimp",
    summary="Gradient ascent on tokens that are likely but not certain, weighted by saturation and importance.",
    paper="arXiv 2505.11953",
    defaults={"beta1": 5.0, "beta2": 1.0},
)
@dataclass(frozen=True)
class SatImpLoss(Loss):
    r"""Gradient ascent on tokens that the model gives a high probability, and could just as well not give.

    .. math:: L = \frac{1}{N} \sum_{i,t} p_{i,t}^{\beta_1} (1 - p_{i,t})^{\beta_2} \log p_{i,t}

    with ``N`` the label tokens of the global batch. Gradients do not flow through the weight.

    Cost: a forward and a backward pass; no reference.

    Args:
        beta1: Exponent of the probability (saturation), at least zero: tokens that are unlikely already count less.
            5 and 1 are the authors' values on TOFU.
        beta2: Exponent of what is missing to 1 (importance), at least zero: tokens that could not be otherwise count
            less.

    Raises:
        RequestError: If an exponent is negative.

    Source: Yang et al., *Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning* (arXiv 2505.11953).
    """

    beta1: float = 5.0
    beta2: float = 1.0

    def __post_init__(self) -> None:
        for key in ("beta1", "beta2"):
            if not getattr(self, key) >= 0:
                raise RequestError(f"{key} is {getattr(self, key)}: SatImp needs exponents of 0 or more")

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum of weighted label log-probabilities over ``[N]`` positions."""
        probabilities = scores.logps.detach().exp()
        weights = probabilities**self.beta1 * (1 - probabilities) ** self.beta2
        return LossSum((weights * scores.logps).sum(), scores.n_labels)
