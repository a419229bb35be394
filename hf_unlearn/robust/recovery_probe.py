"""What rehearsed attacks bring back of the facts that they do not teach, round by round."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch
from accelerate.utils import reduce

from ..data.encoding import EncodedRow
from ..runtime.processes import rank, world_size
from .base import TrainingContext

MOST_ROWS = 128
"""Rows scored per round: few enough to cost little."""
LEAST_LOOKS = 3
"""Before this many probes nothing is reported as gone."""
LATER_FRACTION = 0.6
"""The last fraction of all probes, whose mean decides."""


@dataclass
class RecoveryProbe:
    r"""How much more the model prefers right answers to those of other rows than it would by chance.

    .. math:: \frac{1}{n} \sum_i \left( \frac{\log p(y_i \mid x_i)}{|y_i|}
              - \frac{\log p(y_{j(i)} \mid x_i)}{|y_{j(i)}|} \right)

    with another row :math:`j(i)` whose prompt and answer are others: of the same group where there is one, so that a
    name in question and answer does not give the right one away. It is 0 if a question does not reveal which answer
    is right. A model that never knew can be above 0, as far as questions and answers of a kind fit each other;
    here no such model is available to measure that. If prompts do not differ (plain text), the first half of a row
    serves as its prompt.

    Cost: a forward pass over twice :data:`MOST_ROWS` rows each time.

    Attributes:
        preferences: In nats per token, one per probe.
        floating_point_ops: Of all probes so far, as transformers counts them.
    """

    preferences: list[float] = field(default_factory=list)
    floating_point_ops: int = 0

    @property
    def gone(self) -> bool:
        """Whether the later probes (:data:`LATER_FRACTION`) found nothing on average.

        An attack that goes on for longer than a rehearsal brings back more: what is gone has to stay gone, and for
        longer the longer it took.
        """
        looks = len(self.preferences)
        later = self.preferences[looks - round(LATER_FRACTION * looks) :]
        return looks >= LEAST_LOOKS and fmean(later) <= 0

    def look(self, context: TrainingContext, rows: Sequence[EncodedRow], seed: str) -> None:
        """Probe the model as it is. All processes call this together, and share the rows.

        Args:
            context: Of the run.
            rows: Facts that were not just taught. If there are no two to compare, nothing is recorded.
            seed: Of what is drawn.
        """
        pairs = answer_pairs(rows, random.Random(seed))
        if not pairs:
            return
        mine = pairs[rank() :: world_size()]
        difference = self._mean_logps(context, [right for right, _ in mine]) - self._mean_logps(
            context, [wrong for _, wrong in mine]
        )
        device = next(context.model.parameters()).device
        sums = torch.tensor([difference, len(mine)], dtype=torch.float64, device=device)
        total, count = reduce(sums, "sum").tolist()
        self.preferences.append(total / count)

    @torch.no_grad()
    def _mean_logps(self, context: TrainingContext, rows: Sequence[EncodedRow]) -> float:
        """The sum over rows of the mean label log-probability of each."""
        total = 0.0
        for batch in context.batches(rows) if rows else ():
            scores = context.score(batch)
            logps = scores.logps.double()
            sums, labels = (
                torch.zeros(scores.n_rows, dtype=torch.float64, device=logps.device).index_add_(0, scores.rows, each)
                for each in (logps, torch.ones_like(logps))
            )
            total += float((sums / labels).sum())
            self.floating_point_ops += context.floating_point_ops(batch) // 3  # no backward pass
        return total


def answer_pairs(rows: Sequence[EncodedRow], draw: random.Random) -> list[tuple[EncodedRow, EncodedRow]]:
    """Rows, and the same rows with the answer of another one: :data:`MOST_ROWS` at most.

    An answer that would make a row longer than the longest of these rows is cut.

    Args:
        rows: Of one set.
        draw: Chooses the rows, and whose answer each gets.
    """
    longest = max((len(row.input_ids) for row in rows), default=0)
    if len({_prompt(row) for row in rows}) == 1:
        rows = [_halved(row) for row in rows if len(row.input_ids) > 1]
    by_group: dict[str, list[EncodedRow]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    pairs = []
    for row in draw.sample(rows, min(MOST_ROWS, len(rows))):
        others = _others(row, by_group[row.group]) or _others(row, rows)
        if others:
            swapped = (_prompt(row) + _answer(draw.choice(others)))[:longest]
            pairs.append((row, replace(row, input_ids=swapped, labels=None)))
    return pairs


def _others(row: EncodedRow, rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    return [other for other in rows if _prompt(other) != _prompt(row) and _answer(other) != _answer(row)]


def _prompt(row: EncodedRow) -> tuple[int, ...]:
    return row.input_ids[: row.n_prompt]


def _answer(row: EncodedRow) -> tuple[int, ...]:
    return row.input_ids[row.n_prompt :]


def _halved(row: EncodedRow) -> EncodedRow:
    return replace(row, n_prompt=len(row.input_ids) // 2, labels=None)
