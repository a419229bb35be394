"""Items of like length in one batch, so that little of it is padding."""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch.utils.data import Sampler

from ..data.pairing import PairedRows

MEGA_BATCHES = 50
"""Items are sorted within so many batches: enough for like lengths, few enough to keep an epoch shuffled."""


class LengthGroupedPairs(Sampler[int]):
    """A shuffled order in which neighbours have rows of like length.

    A forget row is padded to the longest row of its batch, which may be a retain row, so that what counts is the
    longest row of an item. The order follows from seed and epoch alone: processes and resumed runs draw the same.

    Args:
        data: Items; their retain rows change with the epoch.
        batch_size: Items of a micro-batch.
        seed: Of the shuffling.
    """

    def __init__(self, data: PairedRows, batch_size: int, seed: int) -> None:
        self._data = data
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(f"length-{self._seed}-{self._data.epoch}")
        order = draw.sample(range(len(self)), len(self))
        size = self._batch_size * MEGA_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), size):
            # The longest first, so that a run that does not fit stops at once.
            grouped = sorted(order[start : start + size], key=self._length, reverse=True)
            batches += [grouped[at : at + self._batch_size] for at in range(0, len(grouped), self._batch_size)]
        first, *others = batches
        # A batch that is not full stays last: a loader cuts the order into batches again.
        last = [others.pop()] if others and len(others[-1]) < self._batch_size else []
        draw.shuffle(others)
        for batch in [first, *others, *last]:
            yield from batch

    def _length(self, index: int) -> int:
        data = self._data
        rows = [data.forget[index], *(data.retainable[row] for row in data.retain_rows(index))]
        return max(len(row.input_ids) for row in rows)
