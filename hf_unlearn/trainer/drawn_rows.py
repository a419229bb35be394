"""Forget rows that a part draws for a step, in place of those whose turn it is."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from ..data.pairing import PaddedRows, PairedCollator, PairedItem, PairedRows
from ..runtime.processes import rank, world_size


def take_drawn(
    batches: Sequence[MutableMapping[str, PaddedRows]],
    numbers: Sequence[int],
    data: PairedRows,
    collator: PairedCollator,
) -> None:
    """Put the drawn rows into the micro-batches of a step; their retain rows stay.

    Args:
        batches: This process's micro-batches; changed in place, because the training loop holds them already.
        numbers: Rows of the step on all processes, equally many for each micro-batch; those that are not forgotten in
            the current epoch are left out.
        data: The run's rows.
        collator: Pads them.
    """
    mine = numbers[rank() :: world_size()]
    for place, batch in enumerate(batches):
        items: list[PairedItem] = [data[number] for number in mine[place :: len(batches)]]
        drawn = collator([{**item, "retain": [], "retain_rows": []} for item in items])
        batch.update(drawn)
