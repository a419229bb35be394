"""Random logits, hidden states and labels, and what plain Python loops in double precision make of them."""

from __future__ import annotations

import math
import random

import torch

from hf_unlearn.losses.base import IGNORED, LabelScores, label_positions

ROWS, TIME, VOCABULARY, WIDTH = 5, 7, 11, 6


class Batch:
    """Random logits and labels with prompts, padding, labels masked in the middle, and one row without any label.

    Args:
        seed: Of everything.
        dtype: Of logits and hidden states.
        others: Whether it has alternates: another batch of as many rows.
    """

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64, others: bool = True) -> None:
        draw = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)

        def normal(width: int) -> torch.Tensor:
            return (3 * torch.randn(ROWS, TIME, width, generator=generator, dtype=torch.float64)).to(dtype)

        self.logits, self.reference = normal(VOCABULARY), normal(VOCABULARY)
        self.hidden, self.reference_hidden = normal(WIDTH), normal(WIDTH)
        self.labels = torch.full((ROWS, TIME), IGNORED)
        for row in range(ROWS - 1):
            start, end = draw.randint(0, 2), draw.randint(4, TIME)
            for time in range(start, end):
                if draw.random() < 0.8:
                    self.labels[row, time] = draw.randrange(VOCABULARY)
        self.reference_logps = torch.tensor(
            [self.logp_sum(self.reference, row) for row in range(ROWS)], dtype=torch.float64
        )
        self.alternates = Batch(seed + 1000, dtype, others=False) if others else None

    def terms(self) -> list[tuple[int, int, int]]:
        """(row, position, label) of everything that counts; the first token of a row is never predicted."""
        found = []
        for row in range(ROWS):
            for time in range(1, TIME):
                label = int(self.labels[row, time])
                if label != IGNORED:
                    found.append((row, time - 1, label))
        return found

    def logp(self, logits: torch.Tensor, row: int, time: int, token: int) -> float:
        values = [float(value) for value in logits[row, time]]
        return values[token] - math.log(sum(math.exp(value) for value in values))

    def logp_sum(self, logits: torch.Tensor, wanted: int) -> float:
        return sum(self.logp(logits, row, time, label) for row, time, label in self.terms() if row == wanted)

    def labelled_rows(self) -> list[int]:
        return sorted({row for row, _, _ in self.terms()})

    def lengths(self) -> list[int]:
        """Labels of each row."""
        return [sum(term[0] == row for term in self.terms()) for row in range(ROWS)]

    def scores(self, chosen: list[int] | None = None) -> LabelScores:
        keep = list(range(ROWS)) if chosen is None else chosen
        labels = self.labels[keep]
        positions = label_positions(labels)
        rows, times = positions.nonzero(as_tuple=True)
        return LabelScores(
            logits=self.logits[keep][positions],
            labels=labels[rows, times + 1],
            rows=rows,
            n_rows=len(keep),
            reference_logps=self.reference_logps[keep],
            reference_logits=self.reference[keep][positions],
            hidden=self.hidden[keep][positions],
            reference_hidden=self.reference_hidden[keep][positions],
            alternates=None if self.alternates is None else self.alternates.scores(chosen),
        )

    def scores_for(self, loss, chosen: list[int] | None = None) -> LabelScores:
        """What the trainer gives a loss: of one that looks at alternates alone, theirs."""
        return self.scores(chosen) if loss.uses_labels else self.alternates.scores(chosen)

    def counted_labels(self, loss) -> torch.Tensor:
        """The labels that a loss counts by."""
        return self.labels if loss.uses_labels else self.alternates.labels

    def leaves(self) -> list[torch.Tensor]:
        """Everything a gradient can reach, from now on with one."""
        batches = [self, *([] if self.alternates is None else [self.alternates])]
        return [part.requires_grad_(True) for batch in batches for part in (batch.logits, batch.hidden)]

    def gradient_of(self, loss, chosen: list[int] | None = None) -> torch.Tensor:
        """Of the mean loss, with respect to the logits."""
        self.logits = self.logits.detach().clone().requires_grad_(True)
        loss(self.scores_for(loss, chosen)).mean.backward()
        return self.logits.grad
