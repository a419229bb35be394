"""What parts may ask about the run: its losses over whole sets, the model's scores, its distance from the target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.pairing import PaddedRows, pad_rows
from ..losses.base import LabelScores
from ..losses.retain.kl import KLRetainLoss
from ..robust.base import TERMS, TermName
from .forward import forward_labels
from .reference import Reference, evaluating, on_device
from .shares import make_terms, step_objective

if TYPE_CHECKING:
    from .unlearn_trainer import UnlearnTrainer


def loss_shares(trainer: UnlearnTrainer, term: TermName) -> Iterator[Tensor]:
    """See :attr:`~hf_unlearn.robust.base.TrainingContext.forget_loss_shares`.

    Args:
        trainer: The run.
        term: Whose loss it is.
    """
    objective, device = step_objective(trainer), trainer.args.device
    batches = list(_whole_set(trainer, term))
    position = TERMS.index(term)
    total = sum(objective.counts([batch], device)[position] for batch in batches)
    for batch in batches:
        with evaluating(trainer.model), trainer.accelerator.autocast():
            (made,) = make_terms(trainer, trainer.model, batch, (term,))
        yield made.sum.total / total


def _whole_set(trainer: UnlearnTrainer, term: TermName) -> Iterator[dict[str, PaddedRows]]:
    data, device = trainer.train_dataset, trainer.model
    if term == "retain":
        yield from ({"retain": on_device(batch, device)} for batch in trainer.rows_in_order(data.retain))
        return
    numbers = [data.alternate_row(index) for index in range(len(data.forget))] if data.alternates else []
    size, pad = trainer.args.per_device_train_batch_size, trainer.processing_class.pad_token_id
    for start, rows in zip(range(0, len(data.forget), size), trainer.rows_in_order(data.forget), strict=True):
        batch = {"forget": on_device(rows, device)}
        if numbers:
            drawn = numbers[start : start + size]
            batch["alternate"] = on_device(pad_rows([data.alternates[row] for row in drawn], drawn, pad), device)
        yield batch


def label_scores(trainer: UnlearnTrainer, batch: PaddedRows, reference: Reference | None = None) -> LabelScores:
    """See :attr:`~hf_unlearn.robust.base.TrainingContext.score`.

    Args:
        trainer: The run.
        batch: Rows.
        reference: What the target says about the list that the rows are of, where a loss is to compare.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    with evaluating(model), trainer.accelerator.autocast():
        scores = forward_labels(model, model, on_device(batch, model))
    return scores.scores(reference_logits=None if reference is None else reference.logits(batch))


@torch.no_grad()
def retain_kl(trainer: UnlearnTrainer, reference: Reference) -> float:
    """See :attr:`~hf_unlearn.robust.base.TrainingContext.retain_kl`.

    Args:
        trainer: The run.
        reference: What the target says about the retain rows.
    """
    loss, total, count = KLRetainLoss(), 0.0, 0
    for batch in trainer.rows_in_order(trainer.train_dataset.retain):
        found = loss(label_scores(trainer, batch, reference))
        total, count = total + float(found.total), count + int(found.count)
    return total / max(count, 1)
