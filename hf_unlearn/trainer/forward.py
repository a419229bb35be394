"""One forward pass of which only the label positions reach the vocabulary projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.pairing import PaddedRows
from ..errors import RequestError
from ..losses.base import IGNORED, LabelScores, label_positions


@dataclass(frozen=True)
class LabelForward:
    """What a model computes at the ``N`` label positions of a batch, rows in order, positions from left to right.

    Attributes:
        logits: ``[N, vocabulary]``.
        hidden: ``[N, hidden]``, what went into the output head.
        labels: ``[N]``.
        rows: ``[N]``, the row of the batch.
        n_rows: Rows of the batch.
    """

    logits: Tensor
    hidden: Tensor
    labels: Tensor
    rows: Tensor
    n_rows: int

    def split(self, n_first: int) -> tuple[LabelForward, LabelForward]:
        """The first ``n_first`` rows, and the others."""
        border = int((self.rows < n_first).sum())
        return (
            LabelForward(
                self.logits[:border], self.hidden[:border], self.labels[:border], self.rows[:border], n_first
            ),
            LabelForward(
                self.logits[border:],
                self.hidden[border:],
                self.labels[border:],
                self.rows[border:] - n_first,
                self.n_rows - n_first,
            ),
        )

    def scores(self, reference_logps: Tensor | None = None, reference_logits: Tensor | None = None) -> LabelScores:
        """What a loss is given."""
        return LabelScores(self.logits, self.labels, self.rows, self.n_rows, reference_logps, reference_logits)


def output_head(model: nn.Module) -> nn.Module:
    """The module that maps hidden states to the vocabulary.

    Raises:
        RequestError: If the model has none, so that it is no causal language model.
    """
    head_of: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = head_of()
    if head is None:
        raise RequestError(f"{type(model).__name__} has no output head: unlearning needs a causal language model")
    return head


def forward_labels(model: nn.Module, head: nn.Module, batch: Mapping[str, Tensor] | PaddedRows) -> LabelForward:
    """Runs the model on a batch.

    Hidden states are narrowed to the label positions by a hook on the head, so that it works through any wrapper
    (DDP, FSDP, DeepSpeed, adapters) and keeps whatever the model does to its logits afterwards.

    Args:
        model: The model as the training loop calls it, possibly wrapped.
        head: The output head inside of it.
        batch: ``input_ids``, ``attention_mask`` and ``labels`` (unshifted), each ``[batch, time]``, right-padded.
    """
    labels = batch["labels"]
    positions = label_positions(labels)
    with _narrowed(head, positions) as taken:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    if len(taken) != 1 or output.logits.shape[:-1] != taken[0].shape[:-1]:
        raise RequestError(f"{type(model).__name__} does not compute its logits by one call of its output head")
    rows, times = positions.nonzero(as_tuple=True)
    return LabelForward(output.logits, taken[0], labels[rows, times + 1], rows, len(labels))


@contextmanager
def _narrowed(head: nn.Module, positions: Tensor) -> Iterator[list[Tensor]]:
    taken: list[Tensor] = []

    def narrow(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        taken.append(inputs[0][positions.to(inputs[0].device)])
        return (taken[-1], *inputs[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield taken
    finally:
        handle.remove()


def join(first: PaddedRows, second: PaddedRows, pad_token_id: int) -> dict[str, Tensor]:
    """Two batches as one, so that one forward pass serves both. The rows of ``first`` come first."""
    width = max(first["labels"].shape[1], second["labels"].shape[1])
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "labels": IGNORED}

    def widen(tensor: Tensor, value: int) -> Tensor:
        return F.pad(tensor, (0, width - tensor.shape[1]), value=value)

    return {
        "input_ids": torch.cat([widen(part["input_ids"], fill["input_ids"]) for part in (first, second)]),
        "attention_mask": torch.cat(
            [widen(part["attention_mask"], fill["attention_mask"]) for part in (first, second)]
        ),
        "labels": torch.cat([widen(part["labels"], fill["labels"]) for part in (first, second)]),
    }
