"""The references of a run: what the model before unlearning says about each list of rows that some loss compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from torch import nn

from ..data.encoding import EncodedRow
from ..data.pairing import PaddedRows, PairedRows
from ..losses.base import Loss
from ..losses.retain.kl import KLRetainLoss
from ..models.sharding import in_pieces
from ..robust.base import TrainingPart
from .reference import Reference, TargetModel, make_reference
from .view_reference import reference_under


def target_model(
    model: Any, accelerator: Accelerator, *, other: nn.Module | None = None, new_adapters: bool = False
) -> TargetModel:
    """The model before unlearning, as it can be asked before the first step.

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


class RunReferences(Mapping[str, Reference]):
    """References by part of a batch: ``forget``, ``alternate``, ``retain``.

    Besides, ``retain@VIEW`` is that of the retain rows under a view of the target, and ``target`` is what the target
    said of the retain rows before the first step, for parts that measure how far the model has gone from it.

    Args:
        rows: The rows of the run, as they stand when a reference is made.
        batches: Goes once over a list of rows in micro-batches, in order.
        kind: ``cache`` or ``model``; see :func:`~hf_unlearn.trainer.reference.make_reference`.
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
        """Asks about the forget rows and their alternates, as far as some forget loss compares.

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
        """Asks about the retain rows if the retain loss compares: the target as it is, and under each view.

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
            loss: The retain loss: where it keeps distributions itself, nothing is kept twice.
        """
        known = self._made["retain"] if loss.uses_reference_logits else None
        self._made["target"] = known or self._make(target, self._rows.retain, [KLRetainLoss()])

    def _make(self, target: TargetModel, rows: Sequence[EncodedRow], losses: Sequence[Loss]) -> Reference:
        return make_reference(target, lambda: self._batches(rows), losses, self._kind)
