"""Negative preference optimization on the forget set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_rows


@FORGET_LOSSES.register(
    "npo",
    summary="Negative preference optimization: gradient ascent that fades out as an answer becomes unlikely.",
    paper="arXiv 2404.05868, eq. 3",
    defaults={"beta": 0.1},
    needs=("reference",),
)
@dataclass(frozen=True)
class NPOLoss(Loss):
    r"""Gradient ascent whose weight on a row falls as the row gets less likely than under the reference model.

    .. math:: L = -\frac{2}{\beta} \frac{1}{B} \sum_i \log \sigma\!\left(-\beta \left(s_i - s_i^{ref}\right)\right),
              \qquad s_i = \sum_t \log p_\theta(y_{i,t} \mid x_i, y_{i,<t})

    with ``B`` the rows of the global batch that have labels, and ``s_i`` *summed* over the labels of row ``i``. The
    reference is the model before unlearning, so one number per forget row is all that is needed of it. The gradient of
    a row is :math:`2\sigma(\beta(s_i - s_i^{ref})) \nabla s_i`: with :math:`\beta \to 0` it is plain gradient ascent
    on sequences.

    Cost: a forward and a backward pass; one number a row is kept of the reference, so no second model.

    Args:
        beta: Inverse temperature, greater than zero. Large values stop sooner.

    Raises:
        RequestError: If ``beta`` is not greater than zero.

    Source: Zhang et al., *Negative Preference Optimization* (arXiv 2404.05868, eq. 3).
    """

    beta: float = 0.1

    uses_reference_logps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise RequestError(f"beta is {self.beta}: NPO needs a beta greater than 0 (the paper uses 0.1)")

    def count(self, labels: Tensor) -> Tensor:
        """Rows of ``[batch, time]`` that have labels."""
        return count_rows(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over the rows that have labels; needs ``reference_logps`` of shape ``[n_rows]``."""
        if scores.reference_logps is None:
            raise ValueError("NPO needs the label log-probabilities of the reference model")
        log_ratio = scores.row_logps - scores.reference_logps.to(scores.row_logps)
        terms = -(2.0 / self.beta) * F.logsigmoid(-self.beta * log_ratio)
        return LossSum(terms[scores.row_has_labels].sum(), scores.row_has_labels.sum())
