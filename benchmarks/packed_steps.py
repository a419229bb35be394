"""Packed rows in one call of attention with a block mask: what `step_turns.py` measures beside `padding_free`.

The package does not use it, because attention also computes what the mask throws away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_unlearn.data.pairing import PaddedRows
from hf_unlearn.trainer.forward import LabelForward, Wanted, forward_labels
from hf_unlearn.trainer.objective import Objective
from hf_unlearn.trainer.padding_free import Packed, pack


@dataclass(frozen=True)
class Masked(Packed):
    """Packed rows for a model that attends as ever."""

    @property
    def inputs(self) -> dict[str, Any]:
        """With a mask ``[1, 1, T, T]``, true where a token attends to another one: of its row, and not after it."""
        mask = (self.rows[:, None] == self.rows[None, :]).tril()[None, None]
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "attention_mask": mask}


@contextmanager
def block_masks(objective: Objective, model: nn.Module) -> Iterator[None]:
    """The objective's passes are packed under a mask, within the block."""

    def forward(called: nn.Module, inputs: Mapping[str, PaddedRows], wanted: Wanted) -> dict[str, LabelForward]:
        masked = Masked(**vars(pack(list(inputs.values()))))
        both = forward_labels(called, model, masked, wanted)
        return dict(zip(inputs, both.split([len(rows["labels"]) for rows in inputs.values()]), strict=True))

    padded = objective.forward
    objective.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        objective.forward = padded  # type: ignore[method-assign]


def backward_in_slices(
    objective: Objective,
    model: nn.Module,
    slices: Sequence[dict[str, PaddedRows]],
    counts: Tensor,
    bf16: bool = False,
) -> None:
    """Leave the gradients of a micro-batch on the model.

    Args:
        objective: Of the run.
        model: The model.
        slices: The micro-batch.
        counts: ``[2]``, what the losses count in it.
        bf16: Whether passes are computed in bfloat16, as with the setting ``bf16``.
    """
    for one in slices:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total, _ = objective.contribution(model, one, counts)
        total.backward()
