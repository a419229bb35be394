"""How long a run will be, known before it starts."""

from __future__ import annotations

import math

from transformers import TrainingArguments


def steps_of_run(args: TrainingArguments, rows: int) -> int:
    """Optimizer steps of the whole run, as [`~transformers.Trainer`] will count them once it has begun.

    Args:
        args: Its settings.
        rows: Items of the training set; an epoch goes once through them.
    """
    if args.max_steps >= 0:
        return args.max_steps
    batches = rows / args.per_device_train_batch_size
    whole = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    of_each = whole // args.world_size if args.dataloader_drop_last else math.ceil(whole / args.world_size)
    steps = max(math.ceil(of_each / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * steps)


def epochs_of_run(args: TrainingArguments, n_rows: int) -> float:
    """How often a run goes through its forget set.

    Args:
        args: The settings.
        n_rows: Forget rows.
    """
    if args.max_steps < 0:
        return args.num_train_epochs
    batches = math.ceil(n_rows / (args.per_device_train_batch_size * args.world_size))
    return args.max_steps / math.ceil(batches / args.gradient_accumulation_steps)
