"""Cross-entropy on refusals to the forget prompts."""

from __future__ import annotations

from typing import ClassVar

from .. import FORGET_LOSSES
from ..alternate_nll import AlternateNLLLoss


@FORGET_LOSSES.register(
    "idk-nll",
    summary="Gradient descent on refusals in place of the true answers.",
    paper="arXiv 2401.06121",
    needs=("alternates",),
)
class IdkNLLLoss(AlternateNLLLoss):
    """:class:`~hf_unlearn.losses.alternate_nll.AlternateNLLLoss` on refusals: the model learns to say that it does
    not know.

    In the sweep of arXiv 2605.24614 no setting of it scored above 0: what a model refuses to say it still knows.

    Cost: a forward and a backward pass over prompts and refusals; no reference.

    Source: Maini et al., *TOFU: A Task of Fictitious Unlearning for LLMs* (arXiv 2401.06121).
    """

    default_alternates: ClassVar[str | None] = "refusals"
