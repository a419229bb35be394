"""Preference of another answer over the true one, which several forget losses share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..errors import RequestError
from .base import LabelScores, Loss, LossSum, count_rows, given


@dataclass(frozen=True)
class PreferenceLoss(Loss):
    r"""Raises an alternate answer over the true one, each relative to the reference.

    .. math:: L = -\frac{2}{\beta} \frac{1}{B} \sum_i \log \sigma\!\left(\beta
              \left[(s'_i - s_i'^{ref}) - (s_i - s_i^{ref})\right]\right)

    with ``B`` the rows of the global batch, ``s_i`` the *summed* log-probability of the true answer's tokens and
    ``s'_i`` that of the alternate. With :math:`\beta \to 0` the gradient is that of gradient ascent on the true answer
    and descent on the alternate, on sequences; without the alternate it is NPO.

    The factor ``2/beta`` is that of NPO (arXiv 2404.05868) and of public unlearning code (open-unlearning, AltPO), so
    that retain weights of published settings carry over. The equation of the paper has the factor 1:
    ``forget_weight: beta/2`` gives it.

    Args:
        beta: Inverse temperature, greater than zero; 0.1 in open-unlearning and AltPO.

    Raises:
        RequestError: If ``beta`` is not greater than zero.

    Source: Rafailov et al., *Direct Preference Optimization* (arXiv 2305.18290, eq. 7).
    """

    beta: float = 0.1

    uses_reference_logps: ClassVar[bool] = True
    uses_alternates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise RequestError(f"beta is {self.beta}: preference optimization needs a beta greater than 0 (0.1)")

    def count(self, labels: Tensor) -> Tensor:
        """Rows of ``[batch, time]`` that have labels."""
        return count_rows(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over the rows that have labels; needs ``alternates``, and ``reference_logps`` of both, ``[n_rows]``."""
        if scores.alternates is None:
            raise ValueError("this loss needs alternates, and they were not given")
        gained = _log_ratio(scores.alternates) - _log_ratio(scores)
        terms = -(2.0 / self.beta) * F.logsigmoid(self.beta * gained)
        return LossSum(terms[scores.row_has_labels].sum(), scores.row_has_labels.sum())


def _log_ratio(scores: LabelScores) -> Tensor:
    reference = given(scores.reference_logps, "the label log-probabilities of the reference model")
    return scores.row_logps - reference.to(scores.row_logps)
