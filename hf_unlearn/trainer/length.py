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
