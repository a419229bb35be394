"""Steps without padding: forget and retain rows lie end to end in one sequence, and each attends to itself alone.

A prototype that `step_turns.py` measures beside the trainer's own padded passes. The package does not use it: what it
costs and saves is in trainer_cost.md.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_unlearn.data.pairing import PaddedRows
from hf_unlearn.losses.base import label_positions
from hf_unlearn.models.head import narrowed_head, output_head
from hf_unlearn.trainer.forward import LabelForward, Wanted
from hf_unlearn.trainer.objective import Objective

ROW_BY_ROW = "row-by-row"
"""Name of the attention that takes a packed sequence apart."""


@dataclass(frozen=True)
class Packed:
    """Rows end to end, without padding.

    Attributes:
        input_ids: ``[1, T]``.
        labels: ``[1, T]``, unshifted. The first token of a row is no label, so no row predicts its neighbour.
        position_ids: ``[1, T]``, from 0 in each row.
        rows: ``[T]``, the row of each token.
        lengths: Tokens of each row.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    rows: Tensor
    lengths: tuple[int, ...]

    def block_mask(self) -> Tensor:
        """``[1, 1, T, T]``, true where a token attends to another one: to earlier ones of its row, and itself."""
        same = self.rows[:, None] == self.rows[None, :]
        return same.tril()[None, None]


def pack(splits: Sequence[PaddedRows]) -> Packed:
    """The rows of some splits, in order."""
    masks = [rows["attention_mask"].bool() for rows in splits]
    lengths = torch.cat([mask.sum(1) for mask in masks])
    row_of = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    first = lengths.cumsum(0) - lengths
    return Packed(
        torch.cat([rows["input_ids"][mask] for rows, mask in zip(splits, masks, strict=True)])[None],
        torch.cat([rows["labels"][mask] for rows, mask in zip(splits, masks, strict=True)])[None],
        (torch.arange(len(row_of)) - first[row_of])[None],
        row_of,
        tuple(lengths.tolist()),
    )


def forward_packed(model: nn.Module, inner: nn.Module, packed: Packed, row_by_row: bool) -> LabelForward:
    """What :func:`hf_unlearn.trainer.forward.forward_labels` gives for the same rows, padded.

    Args:
        model: The model as the training loop calls it.
        inner: The model inside it; with ``row_by_row`` its attention is :data:`ROW_BY_ROW`.
        packed: The rows.
        row_by_row: Whether each row is one call of attention; otherwise all are one call with a block mask.
    """
    positions = label_positions(packed.labels)
    attention: dict[str, Any] = (
        {"row_lengths": packed.lengths} if row_by_row else {"attention_mask": packed.block_mask()}
    )
    with narrowed_head(output_head(inner), positions) as taken:
        output = model(input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False, **attention)
    times = positions[0].nonzero()[:, 0]
    labels, rows = packed.labels[0, times + 1], packed.rows[times]
    return LabelForward(output.logits, taken[0], {}, labels, rows, len(packed.lengths))


def attend_row_by_row(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: tuple[int, ...] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row of a packed sequence: what kernels for rows of any length do on a GPU.

    Args:
        module: The attention layer.
        query: ``[1, heads, T, width]``.
        key: ``[1, key heads, T, width]``.
        value: As the key.
        attention_mask: For padded rows, see ``row_lengths``.
        row_lengths: Tokens of each row; ``None`` for padded rows, which are attended to as ever.
        scaling: Of the products.
        dropout: Of the weights.
        kwargs: What else the usual attention is given.
    """
    if row_lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    grouped = query.shape[1] != key.shape[1]
    parts = zip(*(tensor.split(row_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    attended = [
        F.scaled_dot_product_attention(*part, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped)
        for part in parts
    ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


AttentionInterface.register(ROW_BY_ROW, attend_row_by_row)
AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)


def cut_by_tokens(inputs: Mapping[str, PaddedRows], most: int) -> list[dict[str, PaddedRows]]:
    """As few slices of a micro-batch as have about so many real tokens, all of about the same size.

    Args:
        inputs: The micro-batch.
        most: Tokens of a slice, without padding. The last rows may exceed it.
    """
    units = [
        (length, split, row)
        for split, rows in inputs.items()
        for row, length in enumerate(rows["attention_mask"].sum(1).tolist())
    ]
    count = math.ceil(sum(length for length, _, _ in units) / most)
    slices: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    least_full = [(0, number) for number in range(count)]
    for length, split, row in sorted(units, reverse=True):
        filled, number = heapq.heappop(least_full)
        slices[number].append((split, row))
        heapq.heappush(least_full, (filled + length, number))
    return [_slice(inputs, chosen) for chosen in slices]


def _slice(inputs: Mapping[str, PaddedRows], chosen: Sequence[tuple[str, int]]) -> dict[str, PaddedRows]:
    picked: dict[str, PaddedRows] = {}
    for split, rows in inputs.items():
        numbers = sorted(row for name, row in chosen if name == split)
        if numbers:
            tensors = cast(dict[str, Tensor], rows)
            picked[split] = cast(PaddedRows, {key: tensor[numbers] for key, tensor in tensors.items()})
    return picked


@contextmanager
def packing(objective: Objective, model: Any, row_by_row: bool) -> Iterator[None]:
    """The objective's passes are packed, within the block. For losses that look at answers' logits, on one CPU.

    Args:
        objective: Whose passes.
        model: The model.
        row_by_row: See :func:`forward_packed`.
    """

    def forward(called: nn.Module, inputs: Mapping[str, PaddedRows], wanted: Wanted) -> dict[str, LabelForward]:
        assert wanted == Wanted(), "packed passes give logits alone"
        both = forward_packed(called, model, pack(list(inputs.values())), row_by_row)
        return dict(zip(inputs, both.split([len(rows["labels"]) for rows in inputs.values()]), strict=True))

    padded, before = objective.forward, model.config._attn_implementation
    objective.forward = forward  # type: ignore[method-assign]
    if row_by_row:
        model.set_attn_implementation(ROW_BY_ROW)
    try:
        yield
    finally:
        objective.forward = padded  # type: ignore[method-assign]
        model.set_attn_implementation(before)


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
