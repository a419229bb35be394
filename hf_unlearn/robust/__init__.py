"""Parts that make forgetting last, added to any pair of losses."""

from __future__ import annotations

from typing import Any

from ..registry import Registry

ROBUST: Registry[Any] = Registry("robust part", "hf_unlearn.robust")

__all__ = ["ROBUST"]
