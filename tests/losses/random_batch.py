"""Random logits and labels, and what plain Python loops in double precision make of them."""

import math
import random

import torch

from hf_unlearn.losses.base import IGNORED, LabelScores, label_positions

ROWS, TIME, VOCABULARY = 5, 7, 11


class Batch:
    """Random logits and labels with prompts, padding, labels masked in the middle, and one row without any label."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        draw = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        shape = (ROWS, TIME, VOCABULARY)
        self.logits = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        self.reference = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        self.labels = torch.full((ROWS, TIME), IGNORED)
        for row in range(ROWS - 1):
            start, end = draw.randint(0, 2), draw.randint(4, TIME)
            for time in range(start, end):
                if draw.random() < 0.8:
                    self.labels[row, time] = draw.randrange(VOCABULARY)
        self.reference_logps = torch.tensor(
            [self.logp_sum(self.reference, row) for row in range(ROWS)], dtype=torch.float64
        )

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
        )
