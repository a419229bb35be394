"""Cross-entropy to what the model would say if the true token did not exist."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, label_positions


@FORGET_LOSSES.register(
    "ce-u",
    summary="Cross-entropy to the model's own distribution without the true token; bounded, no reference.",
    paper="arXiv 2503.01224",
    defaults={"skip_first": 1},
)
@dataclass(frozen=True)
class CrossEntropyUnlearningLoss(Loss):
    r"""Moves the probability of the true token to the others, in the proportions that the model has for them.

    .. math:: L = -\frac{1}{N} \sum_{i,t} \sum_{v \ne y_{i,t}} q_{i,t}(v) \log p_\theta(v \mid x_i, y_{i,<t}), \qquad
              q_{i,t} = \mathrm{softmax}\left(z_{i,t} \text{ with } z_{i,t}(y_{i,t}) = -\infty\right)

    with ``z`` the model's logits, no gradient through ``q``, and ``N`` the label tokens of the global batch that are
    not among the first ``skip_first`` of their row. The gradient vanishes as the true token's probability goes to
    zero, instead of growing as in gradient ascent.

    The first token of an answer often says nothing yet, which is why it is left out by default. Answers of one token
    then have no part in the loss: set ``skip_first`` to 0 for those.

    Cost: a forward and a backward pass; no reference.

    Args:
        skip_first: Labels at the start of each row that are left out, 0 or more.

    Raises:
        RequestError: If ``skip_first`` is negative.

    Source: Yang, *CE-U: Cross Entropy Unlearning* (arXiv 2503.01224).
    """

    skip_first: int = 1

    def __post_init__(self) -> None:
        if self.skip_first < 0:
            raise RequestError(f"skip_first is {self.skip_first}: CE-U leaves out 0 or more labels of each answer")

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]`` after the first ``skip_first`` of each row."""
        return (label_positions(labels).sum(dim=1) - self.skip_first).clamp(min=0).sum()

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over the positions that are not left out."""
        lengths = torch.bincount(scores.rows, minlength=scores.n_rows)
        first = lengths.cumsum(0) - lengths
        places = torch.arange(len(scores.rows), device=scores.rows.device) - first[scores.rows]
        kept = places >= self.skip_first
        logps, labels = scores.all_logps[kept], scores.labels[kept].unsqueeze(-1)
        targets = logps.detach().scatter(-1, labels, float("-inf")).softmax(dim=-1)
        return LossSum(-(targets * logps).sum(), kept.sum())
