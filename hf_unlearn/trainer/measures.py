"""What parts may ask about the run and its model besides the two losses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..data.pairing import PaddedRows
from ..losses.base import LabelScores
from ..losses.retain.kl import KLRetainLoss
from .forward import forward_labels
from .reference import Reference, evaluating, on_device

if TYPE_CHECKING:
    from .config import UnlearnConfig
    from .unlearn_trainer import UnlearnTrainer


def epochs_of_run(args: UnlearnConfig, n_rows: int) -> float:
    """How often a run goes through its forget set.

    Args:
        args: The settings.
        n_rows: Forget rows.
    """
    if args.max_steps < 0:
        return args.num_train_epochs
    batches = math.ceil(n_rows / (args.per_device_train_batch_size * args.world_size))
    return args.max_steps / math.ceil(batches / args.gradient_accumulation_steps)


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
