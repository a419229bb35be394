"""What the losses need of the model before unlearning, kept in as little memory as possible.

Of a forget row one number is enough: its summed label log-probability. For an exact KL divergence the next-token
distribution at every retain label is needed; a vocabulary of numbers per token would be large, so the hidden state
that went into the output head is kept instead, and the distribution computed from it when its row is drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.encoding import EncodedRow
from ..data.pairing import PaddedRows, pad_rows
from .forward import LabelForward, forward_labels, output_head
from .models import frozen_copy

logger = logging.getLogger(__name__)

HEAD_TOLERANCE = 1e-5
"""Greatest difference of ``head(hidden)`` and the model's logits, as a share of the largest logit."""


Contexts = tuple[Callable[[], AbstractContextManager[Any]], ...]


@dataclass(frozen=True)
class TargetModel:
    """The model before unlearning, as long as it can be asked.

    Attributes:
        model: The model.
        contexts: Entered before it is asked: the precision that is trained with, adapters off.
        changes: Whether training changes what it answers, because it is the model that is trained.
    """

    model: nn.Module
    contexts: Contexts
    changes: bool

    @torch.no_grad()
    def forward(self, batch: PaddedRows) -> LabelForward:
        """Without gradients and without dropout."""
        with evaluating(self.model), _entered(self.contexts):
            return forward_labels(self.model, output_head(self.model), on_device(batch, self.model))


@contextmanager
def _entered(contexts: Contexts) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield


def on_device(batch: PaddedRows, model: nn.Module) -> PaddedRows:
    """The batch where the model's first weight is."""
    device = next(model.parameters()).device
    return {
        "input_ids": batch["input_ids"].to(device),
        "attention_mask": batch["attention_mask"].to(device),
        "labels": batch["labels"].to(device),
        "row": batch["row"].to(device),
    }


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off, and back to what it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def in_batches(rows: Sequence[EncodedRow], batch_size: int, pad_token_id: int) -> Iterator[PaddedRows]:
    """All rows once, in order."""
    for start in range(0, len(rows), batch_size):
        numbers = range(start, min(start + batch_size, len(rows)))
        yield pad_rows([rows[number] for number in numbers], numbers, pad_token_id)


def target_logps(target: TargetModel, batches: Iterator[PaddedRows]) -> Tensor:
    """Summed label log-probabilities of every row, ``[rows]`` in float32 on the CPU."""
    return torch.cat([target.forward(batch).scores().row_logps.float().cpu() for batch in batches])


class TargetLogits(Protocol):
    """Gives the target's logits for the retain rows of a batch."""

    def __call__(self, batch: PaddedRows) -> Tensor:
        """``[N, vocabulary]`` at the label positions of the batch, rows in order."""


@dataclass(frozen=True)
class CachedLogits:
    """Target logits from cached hidden states.

    Attributes:
        hidden: One ``[labels, hidden]`` tensor per retain row, on the CPU.
        head: The target's output head; nothing trains it.
        contexts: See :class:`TargetModel`.
    """

    hidden: list[Tensor]
    head: nn.Module
    contexts: Contexts

    @torch.no_grad()
    def __call__(self, batch: PaddedRows) -> Tensor:
        rows = torch.cat([self.hidden[row] for row in batch["row"].tolist()])
        with _entered(self.contexts):
            return self.head(rows.to(next(self.head.parameters()).device))


@dataclass(frozen=True)
class LiveLogits:
    """Target logits from the target model itself."""

    target: TargetModel

    def __call__(self, batch: PaddedRows) -> Tensor:
        return self.target.forward(batch).logits


def make_target_logits(target: TargetModel, batches: Iterator[PaddedRows], kind: str) -> TargetLogits:
    """What the KL retain loss asks for the target's distribution.

    Args:
        target: The model before unlearning.
        batches: All retain rows once, in order; read only for a cache.
        kind: ``cache`` or ``model``. Where a cache cannot give the model's own logits, the model is kept as well, and
            the log says so.
    """
    cached = cache_target_logits(target, batches) if kind == "cache" else None
    if cached is not None:
        return cached
    if kind == "cache":
        logger.warning(
            "the output head alone does not give the model's logits, so that the target model is kept in memory"
            " instead of its hidden states"
        )
    return LiveLogits(replace(target, model=frozen_copy(target.model), changes=False) if target.changes else target)


def cache_target_logits(target: TargetModel, batches: Iterator[PaddedRows]) -> CachedLogits | None:
    """Goes once through the retain rows and keeps what the head was given.

    The head is copied if it can change during training, and shared with the model if it is frozen.

    Returns:
        ``None`` if the first batch shows that the head alone does not reproduce the model's logits (some models scale
        or cap them afterwards).
    """
    live_head = output_head(target.model)
    frozen = not any(parameter.requires_grad for parameter in live_head.parameters())
    head = live_head if frozen else frozen_copy(live_head)
    hidden: list[Tensor] = []
    for batch in batches:
        result = target.forward(batch)
        if not hidden and not _reproduces(head, result, target.contexts):
            return None
        lengths = torch.bincount(result.rows, minlength=result.n_rows).tolist()
        hidden.extend(part.clone() for part in result.hidden.cpu().split(lengths))
    return CachedLogits(hidden, head, target.contexts)


@torch.no_grad()
def _reproduces(head: nn.Module, result: LabelForward, contexts: Contexts) -> bool:
    with _entered(contexts):
        logits = head(result.hidden).float()
    expected = result.logits.float()
    return bool((logits - expected).abs().max() <= HEAD_TOLERANCE * expected.abs().max())
