"""Cross-entropy on one wrong answer to the forget prompts, always the same."""

from __future__ import annotations

from typing import ClassVar

from .. import FORGET_LOSSES
from ..alternate_nll import AlternateNLLLoss


@FORGET_LOSSES.register(
    "fixed-incorrect",
    summary="Fixed incorrect answer: gradient descent on one wrong answer, the same in every row of a fact.",
    paper="arXiv 2410.08827",
    needs=("alternates", "options"),
)
class FixedIncorrectLoss(AlternateNLLLoss):
    """:class:`~hf_unlearn.losses.alternate_nll.AlternateNLLLoss` on one wrong option for all rows of a fact, in every
    epoch.

    Cost: a forward and a backward pass over prompts and wrong answers; no reference.

    Source: Deeb and Roger (arXiv 2410.08827); the learning rate is that of ``random-incorrect``.
    """

    default_alternates: ClassVar[str | None] = "fixed-option"
