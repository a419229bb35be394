"""Memory of models: how many tokens go into a forward, and releasing what is no longer used."""

from __future__ import annotations

import gc
from typing import Literal

import torch

# On a CPU longer batches are no faster and cost memory; an accelerator is faster with more at a time.
_TOKENS_ON_CPU = 4096
_TOKENS_ELSEWHERE = 32768


def batch_budget(setting: int | Literal["auto"], device: torch.device) -> int:
    """Initial tokens per forward. It depends only on the setting and the kind of device.

    So batches are the same in every process and in a run that is resumed after a kill.
    """
    if setting != "auto":
        return setting
    return _TOKENS_ON_CPU if device.type == "cpu" else _TOKENS_ELSEWHERE


def release_memory() -> None:
    """Release the memory of unused models or of a failed forward, on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
