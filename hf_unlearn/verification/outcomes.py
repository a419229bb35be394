"""What came of each transform: which budgets a model survived, and which it failed for what."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from .forgotten_rows import ForgottenRowsRow
from .recovered import RecoveredRow
from .single_facts import KnownFactsRow
from .typed_json import Schema, Stated
from .utility import UtilityRow
from .values import Settings, Status

Cause = Literal["knowledge", "over-forgetting", "utility", "marked rows"]


@dataclass(frozen=True)
class TransformOutcome:
    """What came of one transform, over all metrics: a row of the report.

    Attributes:
        transform: The transform.
        kind: ``attack``, or ``format`` as the model stands and in a format.
        status: ``failed`` if any of its numbers failed, otherwise ``inconclusive`` if any is undecided.
        causes: Why it failed: forgotten knowledge that is there, an answer that is marked, lost use,
            forgotten rows that can be told from others.
        worst_share: The largest recovered share among the judged metrics; ``None`` where all are undefined.
        budget: What an attacker was given; empty for a format.
    """

    transform: str
    kind: Annotated[Literal["attack", "format"], Schema("The model as it stands counts as a format.")]
    status: Stated[Status]
    causes: tuple[Cause, ...]
    worst_share: Annotated[float | None, Schema("Largest recovered share among the gate's metrics.")]
    budget: Annotated[Settings, Schema("What the attacker was given; empty for a format.")] = field(
        default_factory=dict
    )


def outcomes_of(
    transforms: Sequence[str],
    attacks: Collection[str],
    recovered: Sequence[RecoveredRow],
    known_facts: Sequence[KnownFactsRow],
    utility: Sequence[UtilityRow],
    forgotten_rows: Sequence[ForgottenRowsRow] = (),
) -> list[TransformOutcome]:
    """What came of each of these transforms.

    Args:
        transforms: Transforms that were tested, in the order of the gate.
        attacks: Which of them are attacks.
        recovered: Judged recovered shares.
        known_facts: Counts of single facts that are still known.
        utility: Judged utility numbers.
        forgotten_rows: How well forgotten rows are told from others.

    Returns:
        One outcome per transform.
    """
    return [
        _outcome(
            name,
            "attack" if name in attacks else "format",
            [row for row in recovered if row.transform == name],
            [row for row in known_facts if row.transform == name],
            [row for row in utility if row.transform == name],
            [row for row in forgotten_rows if row.transform == name],
        )
        for name in transforms
    ]


def _outcome(
    name: str,
    kind: Literal["attack", "format"],
    shares: Sequence[RecoveredRow],
    known_facts: Sequence[KnownFactsRow],
    utility: Sequence[UtilityRow],
    forgotten_rows: Sequence[ForgottenRowsRow],
) -> TransformOutcome:
    causes: list[Cause] = []
    if any(row.still_known for row in shares) or any(row.status == "failed" for row in known_facts):
        causes.append("knowledge")
    if any(row.over_forgotten for row in shares):
        causes.append("over-forgetting")
    if any(row.status == "failed" for row in utility):
        causes.append("utility")
    if any(row.status == "failed" for row in forgotten_rows):
        causes.append("marked rows")
    statuses = [
        *(row.status for row in shares),
        *(row.status for row in known_facts),
        *(row.status for row in utility),
        *(row.status for row in forgotten_rows),
    ]
    status: Status = "failed" if causes else "inconclusive" if "inconclusive" in statuses else "passed"
    known = [row.recovered_share for row in shares if row.recovered_share is not None]
    return TransformOutcome(name, kind, status, tuple(causes), max(known, default=None))
