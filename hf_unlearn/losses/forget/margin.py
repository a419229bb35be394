"""A hinge on the margin by which the true token leads all others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens, given


def label_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """``[N]``: the label's logit minus the best other one, of logits ``[N, vocabulary]``, in at least float32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    places = labels.unsqueeze(-1)
    best_other = wide.scatter(-1, places, float("-inf")).amax(dim=-1)
    return wide.gather(-1, places).squeeze(-1) - best_other


@FORGET_LOSSES.register(
    "margin",
    summary="Hinge on the margin of the true token over the best other one, until it trails by kappa.",
    paper="arXiv 2607.27836 (the variant without a reference)",
    defaults={"kappa": 1.0},
)
@dataclass(frozen=True)
class MarginLoss(Loss):
    r"""Pushes the true token below the best other one, with the same force until it trails by ``kappa``.

    .. math:: L = \frac{1}{N} \sum_{i,t} \max\left(0, m_{i,t} + \kappa\right), \qquad
              m_{i,t} = z_{i,t}(y_{i,t}) - \max_{v \ne y_{i,t}} z_{i,t}(v)

    with ``z`` the logits and ``N`` the label tokens of the global batch. The gradient does not fade on the way, as
    that of a likelihood does, and ends where the margin is reached: a token that is forgotten is left alone, and is
    not driven to be the least likely of all.

    Cost: a forward and a backward pass; no reference.

    Args:
        kappa: By how many logits the true token has to trail, 0 or more. Our choice; of the paper only the abstract
            could be read.

    Raises:
        RequestError: If ``kappa`` is negative.

    Source: *Margin Calibration* (arXiv 2607.27836), the variant without a reference.
    """

    kappa: float = 1.0

    def __post_init__(self) -> None:
        if not self.kappa >= 0:
            raise RequestError(f"kappa is {self.kappa}: the margin that is asked for is 0 or more")

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over ``[N]`` positions."""
        margins = label_margins(given(scores.logits, "logits"), scores.labels)
        return LossSum((margins - self.aim(scores) + self.kappa).clamp(min=0).sum(), scores.n_labels)

    def aim(self, scores: LabelScores) -> Tensor:
        """What margins are measured from, ``[N]`` or a scalar."""
        return given(scores.logits, "logits").new_zeros(())
