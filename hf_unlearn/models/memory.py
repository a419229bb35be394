"""Memory of models: how many tokens go into a forward, and giving back what is no longer used."""

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


def release_memory() -> None:
    """Give back what models that are no longer used, or a failed forward, hold: on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
