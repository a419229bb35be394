"""The largest micro-batch that fits, found before the first step; the step itself does not change.

`transformers.Trainer` starts over with a smaller batch when memory runs out, with weights that may already have
changed, and uses fewer rows per step from then on. Here nothing has been trained when the size is chosen, and
accumulation makes up for the smaller micro-batch, so the objective of every step is the same up to rounding.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.pairing import PairedRows
from ..errors import EnvironmentFailure, RequestError
from ..models.sharding import in_pieces
from ..robust.weights import trained_parameters
from ..runtime.environment import explain
from .config import UnlearnConfig
from .launch import asks_for_deepspeed

logger = logging.getLogger(__name__)

_OPTIMIZER_BYTES = 8
"""Bytes of state per trained parameter that are kept free while sizes are tried: two float32 numbers, as Adam has."""


def candidates(batch_size: int) -> list[int]:
    """Divisors, the largest first: with them accumulation can make up for the rest exactly."""
    return [size for size in range(batch_size, 0, -1) if batch_size % size == 0]


def fit_batch_size(args: UnlearnConfig, accelerator: Accelerator, fits: Callable[[int], bool]) -> None:
    """Make the micro-batch as small as necessary, and accumulation as long. Every process has to call this.

    Args:
        args: The run's settings; changed if a smaller micro-batch is needed.
        accelerator: Of the run. All processes end with the smallest size of any of them.
        fits: Whether this process has the memory for a micro-batch of this many forget rows.

    Raises:
        RequestError: The model will be sharded, and cannot be tried before that.
        EnvironmentFailure: A single row does not fit.
    """
    if in_pieces(accelerator) or asks_for_deepspeed(args.deepspeed):
        raise RequestError(
            "auto_find_batch_size cannot try a model before DeepSpeed or FSDP has wrapped it: set "
            "per_device_train_batch_size yourself"
        )
    given = args.per_device_train_batch_size
    fitting = next((size for size in candidates(given) if fits(size)), 0)
    smallest = int(accelerator.gather(torch.tensor([fitting], device=args.device)).min())
    if not smallest:
        raise EnvironmentFailure(
            "out of memory with one forget row in a batch: shorten max_length, set gradient_checkpointing, train "
            "adapters (peft), or use more GPUs (recipes/accelerate)"
        )
    if smallest != given:
        args.per_device_train_batch_size = smallest
        args.gradient_accumulation_steps *= given // smallest
        logger.warning(
            "micro-batches of %d rows do not fit: %d at a time, %d to a step",
            *(given, smallest, args.gradient_accumulation_steps),
        )


def fits_in_memory(model: nn.Module, loss: Callable[[], Tensor]) -> bool:
    """Try a forward and a backward pass while holding as much memory as the optimizer will take.

    Args:
        model: Not yet wrapped. No gradients are left behind.
        loss: Makes the forward pass.
    """
    trained = trained_parameters(model).values()
    held: list[Any] = []
    try:
        states = [(_OPTIMIZER_BYTES * each.numel(), each.device) for each in trained]
        held = [torch.empty(size, dtype=torch.uint8, device=device) for size, device in states]
        loss().backward()
    except (RuntimeError, MemoryError) as error:
        found = explain(error)
        if found is None or found[0] != "out of memory":
            raise
        return False
    finally:
        del held
        model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def longest_batch(data: PairedRows, collate: Callable[[list[Any]], Any], size: int) -> Any:
    """The micro-batch that needs the most memory: items with the longest forget rows, and the longest retain rows."""

    def longest(rows: Any, count: int) -> list[int]:
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].input_ids), reverse=True)
        return [order[place % len(order)] for place in range(count)]

    items: list[Any] = [dict(data[number]) for number in longest(data.forget, size)]
    if data.retain_per_forget:
        numbers = longest(data.retain, size * data.retain_per_forget)
        for place, item in enumerate(items):
            own = numbers[place :: len(items)]
            item.update(retain=[data.retain[number] for number in own], retain_rows=own)
    return collate(items)
