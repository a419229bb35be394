"""One forward pass in which only the label positions reach the vocabulary projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.pairing import PaddedRows
from ..errors import RequestError
from ..losses.base import IGNORED, LabelScores, label_positions
from ..models.decoder import cut_after, decoder_layers, watched_layers
from ..models.head import narrowed_head, output_head
from .padding_free import Packed


@dataclass(frozen=True)
class Wanted:
    """What is needed from a forward pass.

    Attributes:
        logits: Whether logits are used.
        layers: Decoder layers, from 0, whose output is used.
    """

    logits: bool = True
    layers: tuple[int, ...] = ()

    def __or__(self, other: Wanted) -> Wanted:
        """What either needs."""
        return Wanted(self.logits or other.logits, tuple(sorted({*self.layers, *other.layers})))


LOGITS = Wanted()


@dataclass(frozen=True)
class LabelForward:
    """What a model computes at the ``N`` label positions of a batch, rows in order, positions from left to right.

    Attributes:
        logits: ``[N, vocabulary]``; ``None`` if they were not wanted.
        head_input: ``[N, width]``, what went into the output head.
        hidden: ``[N, width]`` after each layer that was wanted, by its index.
        labels: ``[N]``.
        rows: ``[N]``, the row of the batch.
        n_rows: Rows of the batch.
        router: Scalar, the router loss of the whole pass, if the model computes one.
    """

    logits: Tensor | None
    head_input: Tensor
    hidden: Mapping[int, Tensor]
    labels: Tensor
    rows: Tensor
    n_rows: int
    router: Tensor | None = None

    def split(self, counts: Sequence[int]) -> list[LabelForward]:
        """The first ``counts[0]`` rows, the ``counts[1]`` rows after them, and so on."""
        sizes = [int(((self.rows >= first) & (self.rows < end)).sum()) for first, end in _spans(counts)]
        # Not by slicing: the gradient of each slice would be a tensor of the full size.
        logits = self.logits.split(sizes) if self.logits is not None else [None] * len(sizes)
        # Without logits nothing reached the head.
        heads = [self.head_input] * len(sizes) if self.logits is None else self.head_input.split(sizes)
        hidden = {layer: states.split(sizes) for layer, states in self.hidden.items()}
        labels, rows = self.labels.split(sizes), self.rows.split(sizes)
        return [
            LabelForward(
                logits[place],
                heads[place],
                {layer: states[place] for layer, states in hidden.items()},
                labels[place],
                rows[place] - first,
                end - first,
                self.router,
            )
            for place, (first, end) in enumerate(_spans(counts))
        ]

    def scores(
        self,
        reference_logps: Tensor | None = None,
        reference_logits: Tensor | None = None,
        layer: int | None = None,
        reference_hidden: Tensor | None = None,
        alternates: LabelScores | None = None,
    ) -> LabelScores:
        """What a loss is given; ``layer`` is the one whose hidden states it looks at."""
        hidden = None if layer is None else self.hidden[layer]
        scores = LabelScores(self.logits, self.labels, self.rows, self.n_rows, reference_logps, reference_logits)
        return replace(scores, hidden=hidden, reference_hidden=reference_hidden, alternates=alternates)


def _spans(counts: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(accumulate(counts))
    return [(end - count, end) for count, end in zip(counts, ends, strict=True)]


def forward_labels(
    model: nn.Module, inner: nn.Module, batch: Mapping[str, Tensor] | PaddedRows | Packed, wanted: Wanted = LOGITS
) -> LabelForward:
    """Run the model on a batch.

    The head sees the label positions only (:func:`~hf_unlearn.models.head.narrowed_head`). If only layers are
    wanted, the model is cut off after the last of them.

    Args:
        model: The model as the training loop calls it, possibly wrapped.
        inner: The model inside it (or the same one).
        batch: ``input_ids``, ``attention_mask`` and ``labels`` (unshifted), each ``[batch, time]``, right-padded;
            or packed rows, for a model that attends row by row.
        wanted: What is computed; either logits or at least one layer.
    """
    inputs: dict[str, Any]
    if isinstance(batch, Packed):
        inputs, labels = batch.inputs, batch.labels
    else:
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        labels = batch["labels"]
    positions = label_positions(labels)
    # If no loss uses logits, nothing at all reaches the head.
    seen = positions if wanted.logits else torch.zeros_like(positions)
    cut = nullcontext() if wanted.logits else cut_after(inner, max(wanted.layers))
    # Before the cut: the layers are found by how many there are.
    stack = decoder_layers(inner) if wanted.layers else nn.ModuleList()
    layers = {layer: stack[layer] for layer in wanted.layers}

    def at_labels(states: Tensor) -> Tensor:
        return states[positions.to(states.device)]

    with narrowed_head(output_head(inner), seen) as taken, watched_layers(layers, at_labels) as hidden, cut:
        output = model(**inputs, use_cache=False)
    if len(taken) != 1 or output.logits.shape[:-1] != taken[0].shape[:-1]:
        raise RequestError(f"{type(model).__name__} does not compute its logits by one call of its output head")
    rows, times = positions.nonzero(as_tuple=True)
    router = getattr(output, "aux_loss", None)
    logits = output.logits if wanted.logits else None
    predicted, n_rows = labels[rows, times + 1], len(labels)
    if isinstance(batch, Packed):
        rows, n_rows = batch.rows[times], len(batch.lengths)
    return LabelForward(logits, taken[0], hidden, predicted, rows, n_rows, router)


def join(batches: Sequence[PaddedRows], pad_token_id: int) -> dict[str, Tensor]:
    """Several batches as one, so one forward pass serves all. Rows keep their order."""
    width = max(batch["labels"].shape[1] for batch in batches)

    def stacked(tensors: Sequence[Tensor], fill: int) -> Tensor:
        return torch.cat([F.pad(tensor, (0, width - tensor.shape[1]), value=fill) for tensor in tensors])

    return {
        "input_ids": stacked([batch["input_ids"] for batch in batches], pad_token_id),
        "attention_mask": stacked([batch["attention_mask"] for batch in batches], 0),
        "labels": stacked([batch["labels"] for batch in batches], IGNORED),
    }
