"""Which rows were forgotten? Whether somebody who has only the unlearned model can tell, and what the gate allows.

Who can tell learns who asked for deletion, without knowing a single answer. It shows on both sides: forgotten rows may
still be likelier than rows that nobody taught the model, or pushed so far below them that they stand out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from .scores import ScoreTable
from .told_apart import Auc, SignalAuc, ToldApart
from .typed_json import Schema, Stated
from .values import Count, Interval

ForgottenRowsStatus = Annotated[
    Literal["passed", "failed", "inconclusive", "reported"], Schema("reported: not judged.")
]


@dataclass(frozen=True)
class ForgottenRowsRow:
    """How well one model under one transform tells forgotten rows from holdout rows: a row of the report.

    Attributes:
        model: The model.
        transform: ``identity`` or a format.
        auc: The largest two-sided AUC over the signals: 0.5 if forgotten rows look like any others, 1 if each of them
            is told.
        ci95: Its interval.
        n: Facts of both sets.
        signals: The signals, one-sided.
        threshold: Most that the gate allows; ``None`` where it does not judge this.
        status: ``reported`` where it is not judged.
        reason: Why it did not pass; empty where it did.
    """

    model: str
    transform: str
    auc: Stated[Auc]
    ci95: Interval
    n: Stated[Count]
    signals: tuple[SignalAuc, ...]
    threshold: Annotated[float | None, Schema("Most that the gate allows.", minimum=0.5, maximum=1)] = None
    status: Stated[ForgottenRowsStatus] = "reported"
    reason: str = ""

    @property
    def strongest(self) -> SignalAuc | None:
        """The signal that tells most."""
        return max(self.signals, key=lambda each: abs(each.auc - 0.5), default=None)


def reported_rows(table: ScoreTable, models: Sequence[str]) -> list[ForgottenRowsRow]:
    """Rows of models that are not judged, such as the target and the never-knew model.

    Args:
        table: All scores.
        models: Their names.
    """
    return [_row(model, name, found) for (model, name), found in table.told_apart.items() if model in models]


def judge_forgotten_rows(
    table: ScoreTable, subject: str, never: str, transforms: Sequence[str], most: float | None
) -> list[ForgottenRowsRow]:
    """Rows of one model, judged where there is a limit.

    The number has *passed* if its whole interval is at or under the limit, *failed* if the whole interval is above.
    Where the never-knew model's interval is above the limit too, the two sets differ by themselves: *inconclusive*.

    Args:
        table: All scores.
        subject: The judged model.
        never: Name of the never-knew model; it need not be there.
        transforms: The model as it stands and the formats that are judged.
        most: Most that is allowed; ``None`` judges nothing.

    Returns:
        One row for every transform that was measured.
    """
    rows = []
    for (model, transform), found in table.told_apart.items():
        if model != subject:
            continue
        if most is None or transform not in transforms:
            rows.append(_row(model, transform, found))
            continue
        status, reason = _judged(found, table.told_apart.get((never, transform)), most)
        rows.append(_row(model, transform, found, most, status, reason))
    return rows


def _judged(found: ToldApart, never: ToldApart | None, most: float) -> tuple[ForgottenRowsStatus, str]:
    if found.ci95 is None:
        return "inconclusive", "too few groups to say whether forgotten rows can be told from others."
    low, high = found.ci95
    told = f"forgotten rows are told from holdout rows with an AUC of {found.auc:.2f} [{low:.2f}, {high:.2f}]"
    if high <= most:
        return "passed", ""
    if never is not None and never.ci95 is not None and never.ci95[0] > most:
        reason = f"{told}, and by a model that never knew with {never.auc:.2f}: the two sets differ by themselves."
        return "inconclusive", reason
    return ("failed" if low > most else "inconclusive"), f"{told} (at most {most:.2f})."


def _row(
    model: str,
    transform: str,
    found: ToldApart,
    most: float | None = None,
    status: ForgottenRowsStatus = "reported",
    reason: str = "",
) -> ForgottenRowsRow:
    return ForgottenRowsRow(model, transform, found.auc, found.ci95, found.n, found.signals, most, status, reason)
