"""Gradient ascent on the true answer and on whole answers that the target itself wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_rows, given
from .bs_t import belief_ascent, check_beliefs


@FORGET_LOSSES.register(
    "bs-s",
    summary="Bootstrapping, by sequence: the ascent of bs-t on the true answer and on answers the target writes.",
    paper="arXiv 2510.19422, eq. 7",
    defaults={"sequences": 0.5, "share": 0.5, "top_k": 20},
    needs=("alternates",),
)
@dataclass(frozen=True)
class BootstrapSequenceLoss(Loss):
    r"""The loss ``bs-t`` on the true answers and on sampled ones.

    .. math:: L = (1 - \lambda_s) \, L_{BST}(D_f) + \lambda_s \, L_{BST}(\hat D_f)

    with :math:`\hat D_f` the same prompts with answers that the target wrote before training (the paper's off-policy
    form), by default those of ``alternates: generated``: each epoch takes one of a row's samples, so that all of them
    are used in the mean. With ``share: 0`` this is gradient ascent on both.

    Differences: samples that repeat the true answer are dropped, because the first term has it. A row's sample counts
    where it has labels, as the row does. The on-policy form, which samples again while it trains, is not here.

    Cost: a forward and a backward pass over true answers and samples together; no reference. The samples are made
    once, before training.

    Args:
        sequences: :math:`\lambda_s`, weight of the samples, from 0 to 1. The paper's settings could not be read.
        share: See ``bs-t``.
        top_k: See ``bs-t``.

    Raises:
        RequestError: If a value is out of range.

    Source: Li et al., *LLM Unlearning with LLM Beliefs* (arXiv 2510.19422, eq. 7).
    """

    sequences: float = 0.5
    share: float = 0.5
    top_k: int = 20

    uses_alternates: ClassVar[bool] = True
    default_alternates: ClassVar[str | None] = "generated"

    def __post_init__(self) -> None:
        check_beliefs("bs-s", self.share, self.top_k)
        if not 0 <= self.sequences <= 1:
            raise RequestError(f"bs-s: sequences is {self.sequences}; it must lie from 0 to 1")

    def count(self, labels: Tensor) -> Tensor:
        """Rows of ``[batch, time]`` that have labels."""
        return count_rows(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over the rows that have labels; needs ``alternates``."""
        others = scores.alternates
        if others is None:
            raise ValueError("this loss needs alternates, and they were not given")
        given(others.logits, "logits of the alternates")
        own = scores.mean_over_rows(belief_ascent(scores, self.share, self.top_k))
        written = others.mean_over_rows(belief_ascent(others, self.share, self.top_k))
        return LossSum((1 - self.sequences) * own.total + self.sequences * written.total, own.count)
