"""Flat logits as the aim of forgetting."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens, given


@FORGET_LOSSES.register(
    "pdu",
    summary="Squared distance of the largest logit to the mean logit; meant for use with the robust part dual-ascent.",
    paper="arXiv 2506.05314",
)
class PDULoss(Loss):
    r"""Pulls the largest logit down to the mean of all of them.

    .. math:: L = \frac{1}{N} \sum_{i,t} \left(\max_v z_{i,t}(v) - \frac{1}{V} \sum_v z_{i,t}(v)\right)^2

    with ``N`` the label tokens of the global batch, ``V`` the vocabulary and ``z`` the logits at the true answer's
    positions. Zero if all logits are equal; blind to which token was the true one.

    The paper minimizes it under the constraint that the retain loss stays below a limit, and finds the retain weight
    by dual ascent: that is the robust part ``dual-ascent``, and works with any forget loss.

    Cost: a forward and a backward pass; no reference. The public implementation masks with ``labels != -100`` without
    the shift by one: it leaves out the position that predicts the answer's first token and takes in the position after
    the last one. Here it is the positions that predict the answer's tokens.

    Source: *Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models* (arXiv 2506.05314).
    """

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over ``[N]`` positions."""
        logits = given(scores.logits, "logits")
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        above = wide.amax(dim=-1) - wide.mean(dim=-1)
        return LossSum(above.square().sum(), scores.n_labels)
