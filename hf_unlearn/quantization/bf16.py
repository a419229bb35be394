"""Plain bfloat16 weights: the usual precision of a release, and not lossless for a model trained in float32."""

from __future__ import annotations

from pathlib import Path

import torch

from ..models.loading import read_pretrained
from . import FORMATS
from .base import Written
from .streaming import StreamedFormat, streamed_logits


@FORMATS.register("bf16", summary="bfloat16 weights, not quantized", defaults={"bits": 16})
class BFloat16(StreamedFormat):
    """Every weight rounded to bfloat16 (8 bits of significand), ties to even."""

    name = "bf16"
    bits = 16
    package = "transformers"
    tolerance = 1e-4

    def write(self, source: Path, target: Path) -> Written:
        """Cast, save, and run the cast weights in float32."""
        model = read_pretrained(source, torch.bfloat16)
        model.save_pretrained(target)
        return Written(streamed_logits(model), quantized_share=1.0)
