"""Cross-entropy on wrong answers to the forget prompts, another one each epoch."""

from __future__ import annotations

from typing import ClassVar

from .. import FORGET_LOSSES
from ..alternate_nll import AlternateNLLLoss


@FORGET_LOSSES.register(
    "random-incorrect",
    summary="Random incorrect answer (RIA): gradient descent on wrong answers, a new one each epoch.",
    paper="arXiv 2410.08827",
    needs=("alternates", "options"),
)
class RandomIncorrectLoss(AlternateNLLLoss):
    """:class:`~hf_unlearn.losses.alternate_nll.AlternateNLLLoss` on wrong options of each row, of which every epoch
    draws one.

    The paper's data hold up to three paraphrases of a fact, each with a wrong option of its own, written beforehand;
    here the row's options serve and the draw goes on from epoch to epoch.

    Cost: a forward and a backward pass over prompts and wrong answers; no reference.

    Source: Deeb and Roger, *Do Unlearning Methods Remove Information from Language Model Weights?* (arXiv 2410.08827);
    learning rate 8e-7 with Lion, 5 epochs, retain weights from 0.001 to 100.
    """

    default_alternates: ClassVar[str | None] = "options"
