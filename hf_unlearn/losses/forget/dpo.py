"""Preference optimization on the forget set: another answer is preferred to the true one."""

from __future__ import annotations

from .. import FORGET_LOSSES
from ..preference import PreferenceLoss


@FORGET_LOSSES.register(
    "dpo",
    summary="Direct preference optimization: an alternate answer is preferred to the true one.",
    paper="arXiv 2305.18290, eq. 7",
    defaults={"beta": 0.1},
    needs=("reference", "alternates"),
)
class DPOLoss(PreferenceLoss):
    """:class:`~hf_unlearn.losses.preference.PreferenceLoss` with the alternates that the method names: formula and
    arguments are there.

    Cost: a forward and a backward pass over true answers and alternates together; the reference is two numbers a row.

    Source: Rafailov et al., *Direct Preference Optimization* (arXiv 2305.18290, eq. 7).
    """
