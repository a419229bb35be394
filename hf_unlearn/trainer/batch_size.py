"""The largest micro-batch that fits, found before the first step; the step itself stays what it was.

`transformers.Trainer` starts over with a smaller batch wherever memory runs out, with weights that may have been
stepped already, and steps on fewer rows from then on. Here nothing has been trained when the size is chosen, and what
the micro-batch loses accumulation makes up for, so that the objective of every step is the same to rounding.
"""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

import torch

from ..errors import EnvironmentFailure, RequestError
from ..models.sharding import in_pieces
from ..robust.weights import trained_parameters
from ..runtime.environment import explain
from .launch import asks_for_deepspeed

if TYPE_CHECKING:
    from .unlearn_trainer import UnlearnTrainer

logger = logging.getLogger(__name__)

_OPTIMIZER_BYTES = 8
"""Bytes of state per trained parameter that are held free while sizes are tried: two float32 numbers, as Adam has."""


def candidates(batch_size: int) -> list[int]:
    """Divisors, the largest first: with those accumulation can make up for the rest exactly."""
    return [size for size in range(batch_size, 0, -1) if batch_size % size == 0]


def fit_batch_size(trainer: UnlearnTrainer) -> None:
    """Makes the micro-batch as small as it must be, and accumulation as long.

    Forward and backward pass are tried on the longest rows, with as much memory held as the optimizer will take. All
    processes end with the smallest size of any of them.

    Args:
        trainer: Prepared, with its model not yet wrapped. No gradients are left behind.

    Raises:
        RequestError: The model will lie in pieces, so that it cannot be tried before it does.
        EnvironmentFailure: A single row does not fit.
    """
    args = trainer.args
    if in_pieces(trainer.accelerator) or asks_for_deepspeed(args.deepspeed):
        raise RequestError(
            "auto_find_batch_size cannot try a model before DeepSpeed or FSDP has taken it: set "
            "per_device_train_batch_size yourself"
        )
    given = args.per_device_train_batch_size
    fitting = next((size for size in candidates(given) if _fits(trainer, size)), 0)
    smallest = int(trainer.accelerator.gather(torch.tensor([fitting], device=args.device)).min())
    if not smallest:
        raise EnvironmentFailure(
            "out of memory with one forget row in a batch: shorten max_length, set gradient_checkpointing, train "
            "adapters (peft), or use more GPUs (recipes/accelerate)"
        )
    if smallest != given:
        args.per_device_train_batch_size = smallest
        args.gradient_accumulation_steps *= given // smallest
        trainer._train_batch_size = smallest
        logger.warning(
            "micro-batches of %d rows do not fit: %d at a time, %d to a step",
            *(given, smallest, args.gradient_accumulation_steps),
        )


def _fits(trainer: UnlearnTrainer, size: int) -> bool:
    trained = trained_parameters(trainer.model).values()
    held: list[Any] = []
    try:
        states = [(_OPTIMIZER_BYTES * each.numel(), each.device) for each in trained]
        held = [torch.empty(size, dtype=torch.uint8, device=device) for size, device in states]
        batch: Any = trainer._prepare_inputs(longest_batch(trainer, size))
        trainer.model.train()
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, batch)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
    except (RuntimeError, MemoryError) as error:
        found = explain(error)
        if found is None or found[0] != "out of memory":
            raise
        return False
    finally:
        del held
        trainer.model.zero_grad(set_to_none=True)
        trainer.logged_means.clear()
        trainer.step_means.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def longest_batch(trainer: UnlearnTrainer, size: int) -> Any:
    """The micro-batch that needs the most memory: items with the longest forget rows, and the longest retain rows."""
    data = trainer.train_dataset

    def longest(rows: Any, count: int) -> list[int]:
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].input_ids), reverse=True)
        return [order[place % len(order)] for place in range(count)]

    items: list[Any] = [dict(data[number]) for number in longest(data.forget, size)]
    if data.retain_per_forget:
        numbers = longest(data.retain, size * data.retain_per_forget)
        for place, item in enumerate(items):
            own = numbers[place :: len(items)]
            item.update(retain=[data.retain[number] for number in own], retain_rows=own)
    return trainer.data_collator(items)
