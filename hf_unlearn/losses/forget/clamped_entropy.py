"""A share of the greatest entropy as the aim of forgetting."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_tokens


@FORGET_LOSSES.register(
    "clamped-entropy",
    summary="What entropy lacks of a share of the greatest one; meant for use with the robust part blade.",
    paper="arXiv 2608.22557",
    defaults={"tau": 0.7},
)
@dataclass(frozen=True)
class ClampedEntropyLoss(Loss):
    r"""Raises the entropy of the next token at the answer's positions until it is high enough, and then rests.

    .. math:: L = \frac{1}{N} \sum_{i,t} \max\left(0, \tau \log V - H(p_\theta(\cdot \mid x_i, y_{i,<t}))\right)

    with ``N`` the label tokens of the global batch, ``V`` the vocabulary and ``H`` the entropy in nats. A token whose
    entropy has reached the aim has no gradient at all. Blind to which token was the true one; like ``max-entropy`` it
    goes past a model that never knew, though not as far.

    The published method minimizes it under a constraint on the retain loss: the robust part ``blade``, which works
    with any forget loss.

    Cost: a forward and a backward pass; no reference. The released code takes all tokens, the prompt's among them;
    here it is the positions that predict the answer.

    Args:
        tau: Share of the greatest entropy, above 0 and at most 1; 0.7 in public settings.

    Raises:
        RequestError: If ``tau`` is out of range.

    Source: Toufikuzzaman, Mousavi and Lee, *BLADE: Bilevel Low-rank Augmented-Lagrangian Erasure for LLM Unlearning*
    (arXiv 2608.22557) and its code, read in a port of it.
    """

    tau: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise RequestError(f"clamped-entropy: tau is {self.tau}; it must be above 0 and at most 1")

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over ``[N]`` positions."""
        logps = scores.all_logps
        entropy = -(logps.exp() * logps).sum(dim=-1)
        lacking = self.tau * math.log(logps.shape[-1]) - entropy
        return LossSum(lacking.clamp(min=0).sum(), scores.n_labels)
