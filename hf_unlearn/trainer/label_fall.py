"""What forgetting lowered: the answers, or only their ends.

A sum of label log-probabilities falls where it falls most easily. At the end of an answer that can be far more than
at the answer itself, and then the answer is still known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.encoding import EncodedRow
from ..data.pairing import PaddedRows
from ..models.ends import spread
from .forward import LabelForward

logger = logging.getLogger(__name__)

ROWS = 64
"""This many forget rows are scored, before and after."""

MOST_ON_ENDS = 1 / 3
"""Share of the fall on ends above which a warning is logged."""

LEAST_FALL = 1.0
"""A fall of less than this, in nats per row, is ignored."""


@dataclass(frozen=True)
class LabelSums:
    """Label log-probabilities summed over a row, mean over rows: of answers, and of their ends."""

    answers: float
    ends: float


@dataclass(frozen=True)
class LabelFall:
    """How far the log-probabilities of forget rows fell from the target to the trained model, in nats a row.

    Attributes:
        answers: On the answers.
        ends: On what ends them.
        rows: How many rows were scored.
    """

    answers: float
    ends: float
    rows: int

    @property
    def share_of_ends(self) -> float:
        """Share of the fall that is on ends, from 0 to 1; a rise counts as 0."""
        fell, of_ends = max(self.answers, 0.0) + max(self.ends, 0.0), max(self.ends, 0.0)
        return of_ends / fell if fell else 0.0

    @property
    def warning(self) -> str:
        """One sentence if too much of the fall is on ends; empty if not."""
        if self.share_of_ends <= MOST_ON_ENDS or self.answers + self.ends < LEAST_FALL:
            return ""
        return (
            f"{self.share_of_ends:.0%} of what the forget rows lost in log-probability is on the ends of answers "
            f"({self.ends:.1f} of {self.answers + self.ends:.1f} nats per row), which hold none of the facts: set end "
            "(data.format.end in a recipe) to chat or never"
        )

    def told(self) -> dict[str, Any]:
        """As plain data."""
        values = {"answers": self.answers, "ends": self.ends, "share_of_ends": self.share_of_ends, "rows": self.rows}
        return {**values, **({"warning": self.warning} if self.warning else {})}


def rows_looked_at(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """Forget rows that are scored, spread over all."""
    return spread(rows, ROWS)


def label_sums(
    rows: Sequence[EncodedRow], batches: Iterable[PaddedRows], forward: Callable[[PaddedRows], LabelForward]
) -> LabelSums:
    """Label log-probabilities of rows under a model.

    Args:
        rows: The rows.
        batches: The same, in order.
        forward: The model's forward pass.
    """
    left, answers, ends = iter(rows), 0.0, 0.0
    for batch in batches:
        scores = forward(batch).scores()
        logps = scores.logps.detach().double().cpu()
        for of_row in logps.split(scores.row_lengths.tolist()):
            answered = len(of_row) - next(left).n_end
            answers += float(of_row[:answered].sum())
            ends += float(of_row[answered:].sum())
    return LabelSums(answers / len(rows), ends / len(rows))


def fell_by(before: LabelSums, after: LabelSums, rows: int) -> LabelFall:
    """The fall from one to the other; logs a warning if needed.

    Args:
        before: The target's log-probabilities.
        after: The trained model's log-probabilities.
        rows: How many rows were scored.
    """
    fall = LabelFall(before.answers - after.answers, before.ends - after.ends, rows)
    if fall.warning:
        logger.warning("%s", fall.warning)
    return fall
