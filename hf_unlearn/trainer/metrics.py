"""Running means of what a training step reports, exact over micro-batches of any size and over processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .terms import Term

if TYPE_CHECKING:
    from accelerate import Accelerator


class RunningMeans:
    """Sums and counts by name; they stay on their device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Adds a sum of ``count`` terms."""
        pair = torch.stack([total.detach().double(), count.detach().to(total.device).double()])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all processes, by name. Every process has to call this, with the same names."""
        sums = {name: accelerator.reduce(pair, reduction="sum") for name, pair in self._sums.items()}
        return {name: (pair[0] / pair[1]).item() for name, pair in sums.items() if pair[1] > 0}

    def clear(self) -> None:
        """Forgets everything."""
        self._sums.clear()


def told_of(terms: Sequence[Term]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is logged of the terms of a micro-batch: name, sum and count of each mean."""
    for term in terms:
        yield f"loss/{term.name}", term.sum.total, term.sum.count
        if term.scores.logits is not None:
            rows = term.name if term.loss.uses_labels else "alternate"
            yield f"logps/{rows}", term.scores.row_logps.sum(), term.scores.row_has_labels.sum()
        if term.loss.metric is not None:
            yield f"{term.loss.metric}/{term.name}", term.sum.total, term.sum.count
