"""In which order an attacker sees the rows."""

from __future__ import annotations

import random
from collections.abc import Iterator


def shuffled_epochs(rows: int, epochs: int, seed: str | int) -> Iterator[list[int]]:
    """Positions of the rows for each epoch, as the second paper's code has them.

    Shuffled once by the seed, then again in place by the number of the epoch (arXiv 2410.08827, released code). With a
    whole number as seed and the rows in the same order, it is the same order as there.

    Args:
        rows: How many there are.
        epochs: How many orders.
        seed: Of the first shuffle.
    """
    order = list(range(rows))
    random.Random(seed).shuffle(order)
    for epoch in range(epochs):
        random.Random(epoch).shuffle(order)
        yield list(order)
