"""Plain float16 weights: finer than bfloat16 near 1, but nothing beyond 65504 and little below 6e-5."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import RequestError
from ..models.loading import read_pretrained
from . import FORMATS
from .base import Written
from .streaming import StreamedFormat, streamed_logits


@FORMATS.register("fp16", summary="float16 weights, not quantized", defaults={"bits": 16})
class Float16(StreamedFormat):
    """Every weight rounded to float16 (11 bits of significand), ties to even."""

    name = "fp16"
    bits = 16
    package = "transformers"
    tolerance = 1e-4

    def write(self, source: Path, target: Path) -> Written:
        """Cast, save, and run the cast weights in float32.

        Raises:
            RequestError: A finite weight is too large for float16.
        """
        model = read_pretrained(source, torch.float16)
        for name, parameter in model.named_parameters():
            if parameter.isinf().any():
                raise RequestError(f"{name} has a weight beyond 65504, where float16 ends: use bf16 instead")
        model.save_pretrained(target)
        return Written(streamed_logits(model), quantized_share=1.0)
