"""Other answers to the forget prompts: where they come from, by name."""

from __future__ import annotations

from typing import Any

from ...registry import Registry

ALTERNATES: Registry[Any] = Registry("source of alternates", "hf_unlearn.data.alternates")

__all__ = ["ALTERNATES"]
