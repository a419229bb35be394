"""Kinds of value that rows of the report share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from .typed_json import Schema

Status = Annotated[Literal["passed", "failed", "inconclusive"], Schema(define="status")]
"""A verdict."""

Interval = Annotated[
    tuple[float, float] | None,
    Schema(
        "Interval at gate.confidence (0.95 unless the gate says otherwise); null where there is none.",
        define="interval",
    ),
]

Count = Annotated[int, Schema(minimum=0)]

Part = Annotated[float | None, Schema(define="part", minimum=0, maximum=1)]
"""A share of a whole; ``None`` of an empty one."""

Sha256 = Annotated[str, Schema(define="sha256", pattern="^[0-9a-f]{64}$")]

Files = Annotated[Mapping[str, Sha256], Schema("Path to SHA-256.", define="files")]

Settings = Mapping[str, Any]
"""What differs from run to run, such as the budget of an attack."""


def finite(value: float | None) -> float | None:
    """A number that JSON has a word for; ``None`` for infinities and what is not a number."""
    return float(value) if value is not None and math.isfinite(value) else None
