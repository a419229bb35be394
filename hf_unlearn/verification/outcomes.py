"""What came of each transform: which budgets a model survived, and which it failed for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .recovered import RecoveredRow
from .utility import Status, UtilityRow

Cause = Literal["knowledge", "over-forgetting", "utility"]


@dataclass(frozen=True)
class TransformOutcome:
    """What came of one transform, over all metrics.

    Attributes:
        transform: The transform.
        status: ``failed`` if any of its numbers failed, otherwise ``inconclusive`` if any is undecided.
        causes: Why it failed: forgotten knowledge that is there, an answer that is marked, lost use.
        worst: The largest recovered share among the judged metrics; ``None`` where all are undefined.
    """

    transform: str
    status: Status
    causes: tuple[Cause, ...]
    worst: float | None


def outcomes_of(
    transforms: Sequence[str], recovered: Sequence[RecoveredRow], utility: Sequence[UtilityRow]
) -> list[TransformOutcome]:
    """What came of each of these transforms.

    Args:
        transforms: Transforms that were tested, in the order of the gate.
        recovered: Judged recovered shares.
        utility: Judged utility numbers.

    Returns:
        One outcome per transform.
    """
    return [
        _outcome(
            name,
            [row for row in recovered if row.transform == name],
            [row for row in utility if row.transform == name],
        )
        for name in transforms
    ]


def _outcome(name: str, shares: Sequence[RecoveredRow], utility: Sequence[UtilityRow]) -> TransformOutcome:
    causes: list[Cause] = []
    if any(row.still_known for row in shares):
        causes.append("knowledge")
    if any(row.over_forgotten for row in shares):
        causes.append("over-forgetting")
    if any(row.status == "failed" for row in utility):
        causes.append("utility")
    statuses = [*(row.status for row in shares), *(row.status for row in utility)]
    status: Status = "failed" if causes else "inconclusive" if "inconclusive" in statuses else "passed"
    known = [row.recovered.value for row in shares if row.recovered.value is not None]
    return TransformOutcome(name, status, tuple(causes), max(known, default=None))
