"""The verdict on a model with what came of earlier deletion requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .values import Status
from .verdict import Judgement

_ORDER: tuple[Status, ...] = ("failed", "inconclusive", "passed")


def with_earlier(judgement: Judgement, earlier: Mapping[str, Judgement]) -> Judgement:
    """A verdict that holds only if every earlier request holds too.

    Args:
        judgement: On what the model was made to forget now, and on its use.
        earlier: Id of each earlier request to the judgement of the same model on it.

    Returns:
        The judgement with the worst of all statuses. Its reasons are those of failures first, each request's under its
        id; then those of what is undecided; a sentence on what stays forgotten if all passed.
    """
    if not earlier:
        return judgement
    parts = {"": judgement, **{f"Earlier request {name}: ": each for name, each in earlier.items()}}
    status = min((each.status for each in parts.values()), key=_ORDER.index)
    reasons = [
        f"{head}{reason}"
        for kind in _ORDER[:2]
        for head, each in parts.items()
        if each.status == kind
        for reason in each.reasons
    ]
    if status == "passed":
        names = ", ".join(earlier)
        reasons = [*judgement.reasons, f"What earlier requests asked for stays forgotten too: {names}."]
    return replace(judgement, status=status, reasons=tuple(reasons))
