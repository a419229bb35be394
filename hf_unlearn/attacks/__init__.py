"""Attacks: each takes a model folder and returns scored records of what came back."""

from __future__ import annotations

from ..registry import Registry
from .base import Attack

ATTACKS: Registry[type[Attack]] = Registry("attack", "hf_unlearn.attacks")

__all__ = ["ATTACKS", "Attack"]
