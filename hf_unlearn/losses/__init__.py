"""Unlearning losses: one class per file, pure tensor code, no trainer in sight."""

from __future__ import annotations

from typing import Any

from ..registry import Registry

FORGET_LOSSES: Registry[Any] = Registry("forget loss", "hf_unlearn.losses.forget")
RETAIN_LOSSES: Registry[Any] = Registry("retain loss", "hf_unlearn.losses.retain")

__all__ = ["FORGET_LOSSES", "RETAIN_LOSSES"]
