"""Unlearning on top of ``transformers.Trainer``.

Names are loaded when they are first used, so that reading a recipe does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..runtime.log_filters import drop_harmless_lines

_MODULES = {"UnlearnConfig": "config", "UnlearnTrainer": "unlearn_trainer"}

__all__ = ["UnlearnConfig", "UnlearnTrainer"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    drop_harmless_lines()
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
