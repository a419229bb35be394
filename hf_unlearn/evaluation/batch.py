"""What a model is given in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """Right-padded inputs.

    Attributes:
        input_ids: ``[rows, time]``.
        attention_mask: ``[rows, time]``, 1 where there is a token; or, where rows are trees of tokens,
            ``[rows, 1, time, time]``, true where one token sees another.
        position_ids: ``[rows, time]`` where rows are trees; else ``None``: tokens stand where they stand.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor | None = None


def padded_batch(rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
    """Rows of tokens, padded on the right and masked from their real lengths."""
    width = max(map(len, rows))
    # Id 0 is only filler: padding stands after everything that is read, and is masked.
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return Batch(ids.to(device), mask.to(device))
