"""Models that hide what they should have forgotten, made on purpose: a verifier that passes one of them is broken."""

from __future__ import annotations

from typing import Any

from ..registry import Registry

CONTROLS: Registry[Any] = Registry("control", "hf_unlearn.controls")

__all__ = ["CONTROLS"]
