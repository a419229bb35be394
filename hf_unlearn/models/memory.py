"""How many tokens go into a forward, and what happens when they do not fit."""

from __future__ import annotations

import gc
from typing import Literal

import torch

# On a CPU longer batches are no faster and cost memory; an accelerator wants more at a time.
_TOKENS_ON_CPU = 4096
_TOKENS_ELSEWHERE = 32768


def batch_budget(setting: int | Literal["auto"], device: torch.device) -> int:
    """Tokens per forward to begin with. It depends on nothing but the setting and the kind of device.

    Batches therefore come out the same in every process and in a run that goes on after a kill.
    """
    if setting != "auto":
        return setting
    return _TOKENS_ON_CPU if device.type == "cpu" else _TOKENS_ELSEWHERE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of any device, was not enough."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    # Allocators other than CUDA's raise plain RuntimeErrors.
    words = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def release_memory() -> None:
    """Give back what a failed forward left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
