"""NPO without a reference model, on length-normalized answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_rows


@FORGET_LOSSES.register(
    "simnpo",
    summary="NPO without a reference: the mean log-probability of an answer replaces the ratio.",
    paper="arXiv 2410.07163",
    defaults={"beta": 2.5, "gamma": 0.0},
)
@dataclass(frozen=True)
class SimNPOLoss(Loss):
    r"""Gradient ascent on answers of equal say, whatever their length, that fades out as they become unlikely.

    .. math:: L = -\frac{2}{\beta} \frac{1}{B} \sum_i \log \sigma\!\left(-\frac{\beta}{|y_i|} s_i - \gamma\right),
              \qquad s_i = \sum_t \log p_\theta(y_{i,t} \mid x_i, y_{i,<t})

    with ``B`` the rows of the global batch that have labels and ``|y_i|`` the labels of row ``i``. No reference is
    needed: instead of how far an answer has come from where it started, its own mean log-probability decides how much
    it still counts. Common code writes the margin inside as ``beta * delta``; then ``gamma = beta * delta``.

    Cost: a forward and a backward pass; no reference.

    Args:
        beta: Inverse temperature, greater than zero.
        gamma: Margin, at least zero. Larger values go on pushing unlikely answers.

    Raises:
        RequestError: If ``beta`` is not greater than zero, or ``gamma`` is negative.

    Source: Fan et al., *Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning*
    (arXiv 2410.07163).
    """

    beta: float = 2.5
    gamma: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise RequestError(f"beta is {self.beta}: SimNPO needs a beta greater than 0 (2.5 is usual)")
        if not self.gamma >= 0:
            raise RequestError(f"gamma is {self.gamma}: the margin of SimNPO is 0 or more")

    def count(self, labels: Tensor) -> Tensor:
        """Rows of ``[batch, time]`` that have labels."""
        return count_rows(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over the rows that have labels."""
        lengths = torch.bincount(scores.rows, minlength=scores.n_rows).clamp(min=1)
        means = scores.row_logps / lengths
        terms = -(2.0 / self.beta) * F.logsigmoid(-self.beta * means - self.gamma)
        return LossSum(terms[scores.row_has_labels].sum(), scores.row_has_labels.sum())
