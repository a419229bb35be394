"""Preference optimization on the forget set: a refusal is preferred to the true answer."""

from __future__ import annotations

from typing import ClassVar

from .. import FORGET_LOSSES
from ..preference import PreferenceLoss


@FORGET_LOSSES.register(
    "idk-dpo",
    summary="DPO with a refusal as the preferred answer.",
    paper="arXiv 2401.06121",
    defaults={"beta": 0.1},
    needs=("reference", "alternates"),
)
class IdkDPOLoss(PreferenceLoss):
    """:class:`~hf_unlearn.losses.preference.PreferenceLoss`, with refusals unless the method says otherwise:
    formula and arguments are there.

    Cost: a forward and a backward pass over true answers and refusals together; the reference is two numbers a row.

    Source: Maini et al., *TOFU: A Task of Fictitious Unlearning for LLMs* (arXiv 2401.06121).
    """

    default_alternates: ClassVar[str | None] = "refusals"
