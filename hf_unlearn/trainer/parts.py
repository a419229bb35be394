"""The parts of a run taken together: its losses and rows as they make them, and what they keep in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainingArguments

from ..data.pairing import PairedRows
from ..errors import RequestError
from ..losses.base import Loss
from ..robust.base import TermName, TrainingPart

PARTS_FOLDER = "parts"
"""In a checkpoint: what parts keep besides the weights."""


def arranged(parts: Sequence[TrainingPart], rows: PairedRows, args: TrainingArguments) -> PairedRows:
    """The rows as all parts want them ordered.

    Args:
        parts: Of the run.
        rows: As they would be without them.
        args: Its settings, which say how often it goes through them.
    """
    for part in parts:
        rows = part.arrange(rows, epochs_of_run(args, len(rows.forget)))
    return rows


def loss_of_step(parts: Sequence[TrainingPart], loss: Loss, step: int, steps: int) -> Loss:
    """The forget loss of one step.

    Args:
        parts: Of the run.
        loss: That of the run's settings.
        step: Optimizer steps taken so far.
        steps: Optimizer steps of the whole run.
    """
    for part in parts:
        loss = part.forget_loss(loss, step, steps)
    return loss


def term_factors(parts: Sequence[TrainingPart], step: int) -> dict[TermName, float]:
    """The product of all parts' factors on each term.

    Args:
        parts: Of the run.
        step: Optimizer steps taken so far.
    """
    factors: dict[TermName, float] = {"forget": 1.0, "retain": 1.0}
    for part in parts:
        weights = part.term_weights(step)
        factors["forget"] *= weights.forget
        factors["retain"] *= weights.retain
    return factors


def drawn_rows(parts: Sequence[TrainingPart], step: int, count: int) -> Sequence[int] | None:
    """Positions of the forget rows that a part draws for a step; ``None`` if none does.

    Args:
        parts: Of the run.
        step: Optimizer steps taken so far.
        count: Rows of the step, on all processes.
    """
    drawn = (part.forget_rows(step, count) for part in parts)
    return next((numbers for numbers in drawn if numbers is not None), None)


def save_parts(parts: Sequence[TrainingPart], checkpoint: Path) -> None:
    """Write what parts keep besides the weights into a checkpoint's folder, which is created if missing."""
    folder = checkpoint / PARTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        part.save_state(folder)


def save_shards(parts: Sequence[TrainingPart], checkpoint: Path) -> None:
    """Write what only this process has of it; every process calls this."""
    for part in parts:
        part.save_shard(checkpoint / PARTS_FOLDER)


def load_parts(parts: Sequence[TrainingPart], checkpoint: Path) -> None:
    """Give every part what it kept in a checkpoint."""
    for part in parts:
        part.load_state(checkpoint / PARTS_FOLDER)


def steps_of_run(args: TrainingArguments, rows: int, processes: int | None = None) -> int:
    """Optimizer steps of the whole run, as [`~transformers.Trainer`] will count them once it has begun.

    Args:
        args: Its settings.
        rows: Items of the training set; an epoch goes once through them.
        processes: That train together; those of this launch if left out.
    """
    if args.max_steps >= 0:
        return args.max_steps
    count = args.world_size if processes is None else processes
    batches = rows / args.per_device_train_batch_size
    whole = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    of_each = whole // count if args.dataloader_drop_last else math.ceil(whole / count)
    steps = max(math.ceil(of_each / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * steps)


def check_steps(args: TrainingArguments, rows: int) -> None:
    """Refuses a run that would make no step: what it saved would be the target as it was.

    Args:
        args: Its settings.
        rows: Items of the training set.

    Raises:
        RequestError: Incomplete batches are dropped, and there is no complete one for every process.
    """
    needed = args.per_device_train_batch_size * args.world_size
    if args.max_steps != 0 and args.dataloader_drop_last and rows < needed:
        raise RequestError(
            f"dataloader_drop_last leaves no batch: {rows} forget rows do not fill one of {needed}, so training would "
            "make 0 steps; take smaller batches, or leave dataloader_drop_last out"
        )


def epochs_of_run(args: TrainingArguments, n_rows: int, processes: int | None = None) -> float:
    """How often a run goes through its forget set.

    Args:
        args: The settings.
        n_rows: Forget rows.
        processes: See :func:`steps_of_run`.
    """
    if args.max_steps < 0:
        return args.num_train_epochs
    count = args.world_size if processes is None else processes
    batches = math.ceil(n_rows / (args.per_device_train_batch_size * count))
    return args.max_steps / math.ceil(batches / args.gradient_accumulation_steps)
