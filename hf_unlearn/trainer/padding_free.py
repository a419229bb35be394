"""Passes without padding: rows lie end to end in one sequence, and each row attends to itself alone.

Everything but attention works on tokens one by one, so it gives a packed sequence what it gives padded rows. Attention
takes the sequence apart and is called row by row. One call with a block mask gives the same, but also computes what
the mask throws away: it saved a third as much (benchmarks/trainer_cost.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ..data.pairing import PaddedRows
from ..errors import RequestError

ROW_BY_ROW = "row-by-row"
"""Name of the attention that takes a packed sequence apart."""

_USUAL = "sdpa"


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

    @property
    def inputs(self) -> dict[str, Any]:
        """What a model is given that attends row by row."""
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "row_lengths": self.lengths}


def pack(splits: Sequence[PaddedRows]) -> Packed:
    """The rows of some splits, in order."""
    masks = [rows["attention_mask"].bool() for rows in splits]
    lengths = torch.cat([mask.sum(1) for mask in masks])
    row_of = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    first = lengths.cumsum(0) - lengths
    return Packed(
        torch.cat([rows["input_ids"][mask] for rows, mask in zip(splits, masks, strict=True)])[None],
        torch.cat([rows["labels"][mask] for rows, mask in zip(splits, masks, strict=True)])[None],
        (torch.arange(len(row_of), device=row_of.device) - first[row_of])[None],
        row_of,
        tuple(lengths.tolist()),
    )


def attend_row_by_row(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: tuple[int, ...] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row of a packed sequence.

    Args:
        module: The attention layer.
        query: ``[1, heads, T, width]``.
        key: ``[1, key heads, T, width]``.
        value: As the key.
        attention_mask: That of padded rows; of no use to packed ones.
        row_lengths: Tokens of each row; ``None`` for padded rows, which are attended to as ever.
        scaling: Of the products.
        dropout: Of the weights.
        sliding_window: How many tokens a token sees, itself included; ``None`` for all before it.
        kwargs: What else the usual attention is given.
    """
    if row_lengths is None:
        usual = AttentionInterface()[_USUAL]
        given = {**kwargs, "scaling": scaling, "dropout": dropout, "sliding_window": sliding_window}
        attended: tuple[Tensor, None] = usual(module, query, key, value, attention_mask, **given)
        return attended
    grouped = query.shape[1] != key.shape[1]
    made = []
    for asked, known, told in zip(*(tensor.split(row_lengths, dim=2) for tensor in (query, key, value)), strict=True):
        mask = _window(asked, sliding_window)
        made.append(
            F.scaled_dot_product_attention(
                asked, known, told, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(made, dim=2).transpose(1, 2), None


def _window(query: Tensor, sliding_window: int | None) -> Tensor | None:
    """``[T, T]``, true where a token is seen; ``None`` for a row that no window cuts."""
    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - sliding_window)


AttentionInterface.register(ROW_BY_ROW, attend_row_by_row)
AttentionMaskInterface.register(ROW_BY_ROW, AttentionMaskInterface()[_USUAL])


def attends_row_by_row(model: nn.Module) -> bool:
    """Whether the model can be given packed rows."""
    return _implementation(model) == ROW_BY_ROW


@contextmanager
def row_by_row(model: Any) -> Iterator[None]:
    """The model attends row by row, within the block.

    Raises:
        RequestError: Its attention is not one that rows can be taken apart for.
    """
    before = _implementation(model)
    config = model.config.get_text_config()
    if before not in (_USUAL, ROW_BY_ROW) or getattr(config, "attention_chunk_size", None):
        raise RequestError(
            f"padding_free: the attention of {type(model).__name__} is {before!r}, which cannot be computed row by "
            "row: leave padding_free out"
        )
    model.set_attn_implementation(ROW_BY_ROW)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _implementation(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return None if config is None else config.get_text_config()._attn_implementation


def check_same(name: str, packed: Tensor, padded: Tensor) -> None:
    """Refuse a family in which rows of a packed sequence are not apart, such as one with convolutions over time.

    Args:
        name: Of the model.
        packed: Logits of some rows in one sequence.
        padded: Logits of the same positions, padded.

    Raises:
        RequestError: They differ by more than rounding.
    """
    allowed = 1e-3 if padded.dtype in (torch.float32, torch.float64) else 5e-2
    difference = (packed.float() - padded.float()).norm()
    # What is not finite is for the losses to tell, with the rows that it is about.
    if padded.isfinite().all() and not difference <= allowed * padded.float().norm():
        raise RequestError(f"padding_free: rows of {name} are not computed apart from each other: leave it out")
