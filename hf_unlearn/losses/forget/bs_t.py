"""Gradient ascent on the true answer and on what the model would say in its place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_rows


@FORGET_LOSSES.register(
    "bs-t",
    summary="Bootstrapping, by token: ascent on the true token and on the model's own most likely tokens.",
    paper="arXiv 2510.19422, eq. 5-6",
    defaults={"share": 0.5, "top_k": 20},
)
@dataclass(frozen=True)
class BootstrapTokenLoss(Loss):
    r"""Shares the ascent between the true token and the tokens into which ascent on it alone would squeeze its mass.

    .. math:: L = \frac{1}{B} \sum_i \frac{1}{|y_i|} \sum_t \left\langle \tau_{i,t}, \log p_\theta(\cdot \mid x_i,
              y_{i,<t}) \right\rangle, \qquad \tau_{i,t} = \lambda \, \operatorname{sg}\left[p_\theta(\cdot \mid x_i,
              y_{i,<t}) \big|_{H_k}\right] + (1 - \lambda) \, e_{y_{i,t}}

    with ``B`` the rows of the global batch that have labels, :math:`H_k` the model's own ``top_k`` most likely tokens,
    among which its distribution is normalized again, and ``sg`` no gradient. With a share of 0 this is gradient ascent
    on the mean log-probability of each answer. It has no lower bound: keep it short.

    The paper's equation sums over an answer's tokens; the mean is that of the code with which it is reproduced.

    Cost: a forward and a backward pass; no reference.

    Args:
        share: :math:`\lambda`, weight of the model's own tokens, from 0 to 1. 0.5 in public code.
        top_k: How many of them, at least 1; 20 in public code. All if the vocabulary is smaller.

    Raises:
        RequestError: If a value is out of range.

    Source: Li et al., *LLM Unlearning with LLM Beliefs* (arXiv 2510.19422, eq. 5 and 6).
    """

    share: float = 0.5
    top_k: int = 20

    def __post_init__(self) -> None:
        check_beliefs("bs-t", self.share, self.top_k)

    def count(self, labels: Tensor) -> Tensor:
        """Rows of ``[batch, time]`` that have labels."""
        return count_rows(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over the rows that have labels."""
        return scores.mean_over_rows(belief_ascent(scores, self.share, self.top_k))


def check_beliefs(name: str, share: float, top_k: int) -> None:
    """Refuses values out of range.

    Raises:
        RequestError: Names the loss and the value.
    """
    if not 0 <= share <= 1:
        raise RequestError(f"{name}: share is {share}; it must lie from 0 to 1")
    if top_k < 1:
        raise RequestError(f"{name}: top_k is {top_k}; it must be at least 1")


def belief_ascent(scores: LabelScores, share: float, top_k: int) -> Tensor:
    """``[N]``, the log-probability of every position's soft target: the true token and the model's own likely ones."""
    logps = scores.all_logps
    likely = logps.topk(min(top_k, logps.shape[-1]), dim=-1)
    beliefs = torch.softmax(likely.values.detach(), dim=-1)
    return share * (beliefs * likely.values).sum(dim=-1) + (1 - share) * scores.logps
