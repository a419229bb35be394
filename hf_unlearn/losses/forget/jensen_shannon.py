"""Jensen-Shannon divergence to a refusal."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


@FORGET_LOSSES.register(
    "jensen-shannon",
    summary="Jensen-Shannon divergence to a refusal, token by token at the true answer's positions; bounded.",
    paper="arXiv 2509.02820",
    needs=("alternates",),
)
class JensenShannonLoss(Loss):
    r"""At the true answer's positions, the tokens of a refusal become certain.

    .. math:: L = \frac{1}{N} \sum_{i,t} JSD\left(p_\theta(\cdot \mid x_i, y_{i,<t}) \,\|\, e_{r_{i,t}}\right)
              = \frac{1}{N} \sum_{i,t} \left(\log 2 + \tfrac12 \left[p \log p - (1+p) \log(1+p)\right]\right)

    with ``p`` the probability of token :math:`r_{i,t}` of the refusal, :math:`e_r` one at it, and ``N`` the label
    tokens of the global batch. The refusal is repeated, its end-of-text token included, until it is as long as the
    true answer, which is what precedes each position. From 0 to log 2 per token. The second line follows because
    all other tokens together only count by :math:`1 - p`.

    The gradient in the log-probability of the refusal's token is :math:`\tfrac12 p \log\frac{p}{1+p}`: it fades where
    the refusal is very unlikely, so that the refusal should be one that the model would give.

    Cost: a forward and a backward pass over the true answers; the refusals themselves are not run, no reference.
    The authors' retain term is the same divergence to the target: retain loss ``jensen-shannon``. In the first
    public commit of their code all refusal tokens get probability 1 at once in the target, which then is no
    distribution; later commits do not. The formula is used here.

    Source: Singh et al., *Unlearning That Lasts: Utility-Preserving, Robust, and Almost Irreversible Forgetting in
    LLMs* (arXiv 2509.02820).
    """

    uses_alternate_labels: ClassVar[bool] = True
    default_alternates: ClassVar[str | None] = "refusals"

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over ``[N]`` positions; needs the labels of ``alternates``."""
        logps = scores.all_logps.gather(-1, repeated_labels(scores).unsqueeze(-1)).squeeze(-1)
        p = logps.exp()
        terms = math.log(2) + 0.5 * (p * logps - (1 + p) * torch.log1p(p))
        return LossSum(terms.sum(), scores.n_labels)


def repeated_labels(scores: LabelScores) -> Tensor:
    """``[N]``, at each label of a row the label of its alternate at the same place, from the start again at its end.

    Raises:
        ValueError: There are no alternates.
    """
    others = scores.alternates
    if others is None:
        raise ValueError("this loss needs alternates, and they were not given")
    rows = scores.rows
    lengths = others.row_lengths
    starts = scores.row_lengths.cumsum(0) - scores.row_lengths
    places = torch.arange(len(rows), device=rows.device) - starts[rows]
    other_starts = lengths.cumsum(0) - lengths
    return others.labels[other_starts[rows] + places % lengths[rows].clamp(min=1)]
