"""Facts that unlearning has pushed below chance, raised to where they tell nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..losses.base import LabelScores, Loss, LossSum, count_tokens
from .base import TrainingContext
from .facts_left import FactsLeft
from .recovery_probe import MOST_ROWS, QUIET_SHARE, RecoveryProbe

MOST_BELOW = 0.5
"""Of the facts, how many may be less likely than a quarter of the false answers."""
LOOK_EVERY = 4
"""Steps between two looks: the raised facts drop out, and where chance is moves."""


@dataclass(frozen=True)
class UpToChance(Loss):
    r"""Raises answers that are less likely than chance has them, and no further.

    .. math:: L = \frac{1}{N} \sum_i \max\left(0, |y_i| \, \ell - \log p(y_i \mid x_i)\right)

    with ``N`` the label tokens of the global batch.

    Cost: a forward and a backward pass; no reference.

    Args:
        level: :math:`\ell`, in nats per token.
    """

    level: float

    def count(self, labels: Tensor) -> Tensor:
        """Label tokens of ``[batch, time]``."""
        return count_tokens(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """The sum of what rows lack."""
        lacking = self.level * scores.row_lengths.to(scores.row_logps) - scores.row_logps
        return LossSum(lacking.clamp(min=0).sum(), scores.n_labels)


@dataclass
class Levelling:
    """Which facts stand out by being less likely than false answers, as the model stands.

    A right answer that is the least likely of four tells what was forgotten, and it is no sign that nothing is left:
    what brings it back only has further to go. Facts of which nothing is left are as likely as any false answer, so a
    quarter of them is less likely than a quarter of the false ones. If more than half of them are, those are raised,
    until it is half: raising all would give back what little is left of some.

    Cost: for each look a forward pass over each forget row's answer and three times as many false ones.

    Attributes:
        rows: Positions of the facts to be raised in the forget set.
        level: Mean log-probability per token that :data:`~.recovery_probe.LEVEL_SHARE` of false answers have at most.
        floating_point_ops: Of all looks so far, as transformers counts them.
        found: How many facts were to be raised after each look.
    """

    rows: tuple[int, ...] = ()
    level: float = 0.0
    floating_point_ops: int = 0
    found: list[int] = field(default_factory=list)

    def look(self, context: TrainingContext, seed: str) -> None:
        """Ask for all forget facts. All processes call this together.

        Args:
            context: Of the run.
            seed: Of the false pairs that are drawn.
        """
        count = len(context.forget_rows)
        parts = math.ceil(count / MOST_ROWS)
        below: list[int] = []
        levels: list[float] = []
        for part in range(parts):
            probe = RecoveryProbe(FactsLeft(count))
            probe.look(context, range(part, count, parts), f"{seed}-{part}")
            self.floating_point_ops += probe.floating_point_ops
            below += [number for number, seen in probe.facts.pooled.items() if seen.rank < QUIET_SHARE]
            levels += [] if probe.level is None else [probe.level]
        self.rows = tuple(sorted(below)) if len(below) > MOST_BELOW * count else ()
        self.level = math.fsum(levels) / len(levels) if levels else 0.0
        self.found.append(len(self.rows))

    def drawn(self, first: int, count: int) -> Sequence[int]:
        """So many of the rows, in turn.

        Args:
            first: Number of the first one, counted from the beginning of the phase.
            count: How many.
        """
        return [self.rows[(first + place) % len(self.rows)] for place in range(count)]

    def saved(self) -> dict[str, Tensor]:
        """All of it, for :meth:`restore`."""
        return {
            "level_rows": torch.tensor(self.rows, dtype=torch.int64),
            "level": torch.tensor(self.level, dtype=torch.float64),
            "level_operations": torch.tensor(self.floating_point_ops),
            "level_found": torch.tensor(self.found, dtype=torch.int64),
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Takes back what :meth:`saved` gave."""
        self.rows = tuple(saved["level_rows"].tolist())
        self.level = float(saved["level"])
        self.floating_point_ops = int(saved["level_operations"])
        self.found = saved["level_found"].tolist()
