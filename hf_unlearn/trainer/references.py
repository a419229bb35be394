"""What the losses compare with: the model before unlearning, kept in as little memory as possible.

For a ratio of likelihoods one number per row is enough: its summed label log-probability. For an exact KL divergence
the next-token distribution at every label is needed; a vocabulary of numbers per token would be large, so the hidden
state that went into the output head is kept instead, and the distribution computed from it when its row is drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.encoding import EncodedRow
from ..data.pairing import PaddedRows, PairedRows, pad_rows
from ..losses.base import LabelScores, Loss, given
from ..losses.retain.kl import KLRetainLoss
from ..models.head import Tail, matching_tail, output_head
from ..models.sharding import frozen_copy, gathered_in_turn, in_pieces
from ..robust.base import TrainingPart, View
from .forward import LOGITS, LabelForward, Wanted, forward_labels

logger = logging.getLogger(__name__)

HEAD_TOLERANCE = 1e-5
"""Largest difference between ``head(hidden)`` and the model's logits, as a share of the largest logit."""


Contexts = tuple[Callable[[], AbstractContextManager[Any]], ...]


@dataclass(frozen=True)
class TargetModel:
    """The model before unlearning, while it can be run.

    Attributes:
        model: The model.
        contexts: Entered before it is run: the precision that is trained with, adapters off.
        changes: Whether training changes its answers, because it is the model that is trained.
        in_pieces: Whether its weights will be sharded over several processes once training starts.
    """

    model: nn.Module
    contexts: Contexts
    changes: bool
    in_pieces: bool = False

    @torch.no_grad()
    def forward(self, batch: PaddedRows, wanted: Wanted = LOGITS) -> LabelForward:
        """Without gradients and without dropout."""
        with evaluating(self.model), _entered(self.contexts), gathered_in_turn(self.model):
            return forward_labels(self.model, self.model, on_device(batch, self.model), wanted)


def target_model(
    model: Any, accelerator: Accelerator, *, other: nn.Module | None = None, new_adapters: bool = False
) -> TargetModel:
    """The model before unlearning, as it can be run before the first step.

    Args:
        model: The model that will be trained, at its original weights.
        accelerator: Of the run.
        other: The model to compare with, if it is another one, on its device.
        new_adapters: Whether the model is the target with adapters that were put on for this run.
    """
    autocast, pieces = accelerator.autocast, in_pieces(accelerator)
    if other is not None:
        return TargetModel(other.requires_grad_(False), (autocast,), changes=False)
    if new_adapters:
        return TargetModel(model, (autocast, model.disable_adapter), changes=False, in_pieces=pieces)
    return TargetModel(model, (autocast,), changes=True, in_pieces=pieces)


@contextmanager
def _entered(contexts: Contexts) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield


def on_device(batch: PaddedRows, model: nn.Module, device: torch.device | None = None) -> PaddedRows:
    """The batch on a device, by default where the model's first weight is."""
    device = next(model.parameters()).device if device is None else device
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


@dataclass(frozen=True)
class Reference:
    """What the target model says about the rows of one list, as far as a loss uses it.

    Attributes:
        logps: ``[rows]``, summed label log-probabilities in float32 on the CPU.
        states: What gives logits and hidden states.
        layer: The layer whose hidden states are used.
    """

    logps: Tensor | None = None
    states: CachedStates | LiveStates | None = None
    layer: int | None = None

    def row_logps(self, batch: PaddedRows) -> Tensor | None:
        """``[rows of the batch]``."""
        return None if self.logps is None else self.logps[batch["row"].cpu()].to(batch["row"].device)

    def logits(self, batch: PaddedRows) -> Tensor | None:
        """``[N, vocabulary]`` at the label positions of the batch, rows in order."""
        return None if self.states is None else self.states.logits(batch)

    def hidden(self, batch: PaddedRows) -> Tensor | None:
        """``[N, width]`` at the label positions of the batch, rows in order."""
        return None if self.states is None or self.layer is None else self.states.hidden(batch, self.layer)


@dataclass(frozen=True)
class CachedStates:
    """Answers from cached hidden states.

    Attributes:
        head_inputs: One ``[labels, width]`` tensor per row, on the CPU; ``None`` if no loss uses logits.
        hiddens: The same after the layer in use; ``None`` if no loss uses one.
        head: The target's output head; nothing trains it.
        tail: What the target does to the head's output.
        contexts: See :class:`TargetModel`.
    """

    head_inputs: list[Tensor] | None
    hiddens: list[Tensor] | None
    head: nn.Module
    tail: Tail
    contexts: Contexts

    @torch.no_grad()
    def logits(self, batch: PaddedRows) -> Tensor | None:
        """From the head's inputs."""
        if self.head_inputs is None:
            return None
        states = torch.cat([self.head_inputs[row] for row in batch["row"].tolist()])
        with _entered(self.contexts):
            return self.tail(self.head(states.to(next(self.head.parameters()).device)))

    def hidden(self, batch: PaddedRows, layer: int) -> Tensor | None:
        """As they were kept; there is only one layer."""
        if self.hiddens is None:
            return None
        return torch.cat([self.hiddens[row] for row in batch["row"].tolist()]).to(batch["row"].device)


@dataclass(frozen=True)
class LiveStates:
    """Answers from the target model itself.

    Attributes:
        target: The model.
        wanted: What is asked of it.
    """

    target: TargetModel
    wanted: Wanted

    def logits(self, batch: PaddedRows) -> Tensor | None:
        """By a forward pass."""
        return self.target.forward(batch, LOGITS).logits if self.wanted.logits else None

    def hidden(self, batch: PaddedRows, layer: int) -> Tensor | None:
        """By a forward pass."""
        return self.target.forward(batch, Wanted(False, (layer,))).hidden[layer]


def make_reference(
    target: TargetModel, batches: Callable[[], Iterator[PaddedRows]], losses: Sequence[Loss], kind: str
) -> Reference:
    """The reference values that losses need for a list of rows.

    Args:
        target: The model before unlearning.
        batches: Goes through all rows once, in order.
        losses: The losses; at most one of them uses hidden states.
        kind: ``cache`` or ``model``, where logits and hidden states come from. If a cache cannot give the model's
            own logits, the model is kept as well, and the log says so.
    """
    logps = target_logps(target, batches()) if any(loss.uses_reference_logps for loss in losses) else None
    layers = {loss.hidden_layer for loss in losses if loss.uses_reference_hidden and loss.hidden_layer is not None}
    wanted = Wanted(any(loss.uses_reference_logits for loss in losses), tuple(layers))
    if not (wanted.logits or wanted.layers):
        return Reference(logps)
    states = cache_states(target, batches(), wanted) if kind == "cache" else None
    if states is None and kind == "cache":
        logger.warning(
            "the output head alone does not give the model's logits, so the target model is kept in memory"
            " instead of its hidden states"
        )
    return Reference(logps, states or _live(target, wanted), next(iter(layers), None))


def _live(target: TargetModel, wanted: Wanted) -> LiveStates:
    moves = target.changes or target.in_pieces
    kept = replace(target, model=frozen_copy(target.model), changes=False, in_pieces=False) if moves else target
    return LiveStates(kept, wanted)


def target_logps(target: TargetModel, batches: Iterator[PaddedRows]) -> Tensor:
    """Summed label log-probabilities of every row, ``[rows]`` in float32 on the CPU."""
    return torch.cat([target.forward(batch).scores().row_logps.float().cpu() for batch in batches])


def cache_states(target: TargetModel, batches: Iterator[PaddedRows], wanted: Wanted) -> CachedStates | None:
    """Goes once through the rows and keeps what the head was given, and the hidden states that are wanted.

    The head is copied if it can change during training, and shared with the model if it is frozen.

    Returns:
        ``None`` if the first batch shows that the head, with what the configuration says is done to its output, does
        not reproduce the model's logits.
    """
    head = _head_of_target(target)
    tail: Tail | None = Tail()
    head_inputs: list[Tensor] = []
    hiddens: list[Tensor] = []
    for batch in batches:
        result = target.forward(batch, wanted)
        if wanted.logits and not head_inputs:
            tail = _tail_of(head, result, target)
        if tail is None:
            return None
        lengths = torch.bincount(result.rows, minlength=result.n_rows).tolist()
        if wanted.logits:
            head_inputs.extend(part.clone() for part in result.head_input.cpu().split(lengths))
        for layer in wanted.layers:
            hiddens.extend(part.clone() for part in result.hidden[layer].cpu().split(lengths))
    assert tail is not None  # it was determined in the first batch
    return CachedStates(head_inputs or None, hiddens or None, head, tail, target.contexts)


def _head_of_target(target: TargetModel) -> nn.Module:
    live_head = output_head(target.model)
    frozen = not any(parameter.requires_grad for parameter in live_head.parameters())
    return live_head if frozen and not target.in_pieces else frozen_copy(live_head)


@torch.no_grad()
def _tail_of(head: nn.Module, result: LabelForward, target: TargetModel) -> Tail | None:
    expected = given(result.logits, "logits").float()

    def same(logits: Tensor, expected: Tensor) -> bool:
        return bool((logits - expected).abs().max() <= HEAD_TOLERANCE * expected.abs().max())

    with _entered(target.contexts), gathered_in_turn(head):
        outputs = head(result.head_input)
        return matching_tail(target.model, lambda tail: tail(outputs), expected, same)


def reference_under(
    view: View, target: TargetModel, plain: Reference, make: Callable[[TargetModel], Reference]
) -> Reference:
    """The reference values that a loss needs of the target under this view.

    Args:
        view: A view of the target's weights, which end as they were.
        target: The model before unlearning.
        plain: What is kept of the target as it is; its copy of the output head is shared if the view leaves the
            head alone.
        make: Makes the reference of a target model that will not stay as it is.
    """
    head = output_head(target.model)
    before = _mark(head)
    with view.enter():
        touched = _mark(head) != before
        seen = make(replace(target, changes=True))
        if not isinstance(seen.states, CachedStates):
            return seen
        if not touched and isinstance(plain.states, CachedStates):
            return replace(seen, states=replace(seen.states, head=plain.states.head))
        if touched and seen.states.head is head:
            return replace(seen, states=replace(seen.states, head=frozen_copy(head)))
        return seen


def _mark(module: nn.Module) -> list[tuple[int, int]]:
    """Differs as soon as a weight was changed in place or replaced by another tensor."""
    return [(parameter.data_ptr(), parameter._version) for parameter in module.parameters()]


class RunReferences(Mapping[str, Reference]):
    """References by split: ``forget``, ``alternate``, ``retain``.

    Besides, ``retain@VIEW`` is that of the retain rows under a view of the target, and ``target`` is what the target
    said of the retain rows before the first step, for parts that measure how far the model has moved from it.

    Args:
        rows: The rows of the run, as they are when a reference is made.
        batches: Goes once over a list of rows in micro-batches, in order.
        kind: ``cache`` or ``model``; see :func:`make_reference`.
    """

    def __init__(
        self, rows: PairedRows, batches: Callable[[Sequence[EncodedRow]], Iterator[PaddedRows]], kind: str
    ) -> None:
        self._rows, self._batches, self._kind = rows, batches, kind
        self._made: dict[str, Reference] = {}

    def __getitem__(self, name: str) -> Reference:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def take_forget(self, target: TargetModel, losses: Sequence[Loss]) -> None:
        """Collect references for the forget rows and their alternates, as far as some forget loss needs them.

        Args:
            target: The model before unlearning.
            losses: Every forget loss of the run, that of its settings first.
        """
        if not any(loss.needs_reference for loss in losses):
            return
        self._made["forget"] = self._make(target, self._rows.forget, losses)
        if self._rows.alternates and losses[0].uses_alternates:
            self._made["alternate"] = self._make(target, self._rows.alternates, losses)

    def take_retain(self, target: TargetModel, loss: Loss, parts: Sequence[TrainingPart]) -> None:
        """Collect references for the retain rows if the retain loss needs them: of the target and under each view.

        Args:
            target: What the retain loss compares with from now on.
            loss: The retain loss.
            parts: Of the run: they name the views.
        """
        if not loss.needs_reference:
            return
        rows = self._rows.retainable
        self._made["retain"] = self._make(target, rows, [loss])
        for view in (view for part in parts for view in part.reference_views(target.model)):
            self._made[f"retain@{view.name}"] = reference_under(
                view, target, self._made["retain"], lambda seen: self._make(seen, rows, [loss])
            )

    def take_target(self, target: TargetModel, loss: Loss) -> None:
        """Keeps the target's distributions on the retain rows; call it after :meth:`take_retain`.

        Args:
            target: The model before unlearning.
            loss: The retain loss: if it already keeps distributions, nothing is kept twice.
        """
        known = self._made["retain"] if loss.uses_reference_logits else None
        self._made["target"] = known or self._make(target, self._rows.retain, [KLRetainLoss()])

    def _make(self, target: TargetModel, rows: Sequence[EncodedRow], losses: Sequence[Loss]) -> Reference:
        return make_reference(target, lambda: self._batches(rows), losses, self._kind)


@torch.no_grad()
def mean_kl(reference: Reference, batches: Iterator[PaddedRows], score: Callable[[PaddedRows], LabelScores]) -> float:
    """Mean KL divergence from the target over the labels of some rows, in nats per token.

    Args:
        reference: What the target says about them.
        batches: Goes once through the rows.
        score: The model's current scores at the labels of a micro-batch.
    """
    loss, total, count = KLRetainLoss(), 0.0, 0
    for batch in batches:
        found = loss(replace(score(batch), reference_logits=reference.logits(batch)))
        total, count = total + float(found.total), count + int(found.count)
    return total / max(count, 1)
