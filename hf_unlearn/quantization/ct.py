"""FP8 and INT8 with activations rounded as well, stored by compressed-tensors: what vLLM releases call FP8-dynamic and
W8A8.

Weights have one scale per output row, activations one per token that is computed as they come. On a CPU, and wherever
the fast kernels are missing, the library rounds activations and multiplies in full precision.
"""

from __future__ import annotations

from typing import Any

import torch

from . import FORMATS
from .compressed import CompressedTensors, smallest_scale

_FP8_LARGEST = torch.finfo(torch.float8_e4m3fn).max


@FORMATS.register(
    "ct-fp8",
    summary="FP8 (e4m3) weights by output row and activations by token, stored by compressed-tensors",
    paper="arXiv 2209.05433 (the number format)",
    defaults={"bits": 8, "group_size": None, "activations": "fp8"},
    needs=("compressed-tensors",),
)
class Float8Dynamic(CompressedTensors):
    """Four bits of exponent, three of significand; ``scale = max / 448``."""

    name = "ct-fp8"
    bits = 8
    # Sums in another order move some activations to the next of the few FP8 numbers.
    tolerance = 0.01

    def weight_settings(self) -> dict[str, Any]:
        """FP8 by output row."""
        return {"num_bits": 8, "type": "float", "strategy": "channel"}

    def input_settings(self) -> dict[str, Any]:
        """FP8 by token."""
        return {"num_bits": 8, "type": "float", "strategy": "token"}

    def scales(self, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
        """``max|w| / 448`` of each row."""
        return smallest_scale(weight.float().abs().amax(-1, keepdim=True) / _FP8_LARGEST, stored)

    def rounded(self, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
        """The nearest FP8 multiple of the row's scale."""
        return _nearest_fp8(weight.float(), self.scales(weight, stored))

    def rounded_inputs(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest FP8 multiple of the token's scale."""
        return _nearest_fp8(values, self.scales(values, values.dtype)).to(values.dtype)


@FORMATS.register(
    "ct-int8",
    summary="INT8 weights by output row and activations by token (W8A8), stored by compressed-tensors",
    paper="arXiv 2211.10438 (the scheme, without its smoothing)",
    defaults={"bits": 8, "group_size": None, "activations": "int8"},
    needs=("compressed-tensors",),
)
class Int8Dynamic(CompressedTensors):
    """Symmetric integers; ``scale = max / 127.5``."""

    name = "ct-int8"
    bits = 8
    tolerance = 0.01

    def weight_settings(self) -> dict[str, Any]:
        """INT8 by output row."""
        return {"num_bits": 8, "type": "int", "strategy": "channel"}

    def input_settings(self) -> dict[str, Any]:
        """INT8 by token."""
        return {"num_bits": 8, "type": "int", "strategy": "token"}

    def scales(self, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
        """``max|w| / 127.5`` of each row."""
        return smallest_scale(weight.float().abs().amax(-1, keepdim=True) / 127.5, stored)

    def rounded(self, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
        """The nearest multiple of the row's scale."""
        scales = self.scales(weight, stored)
        return (weight.float() / scales).round().clamp(-128, 127) * scales

    def rounded_inputs(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest multiple of the token's scale."""
        return self.rounded(values, values.dtype).to(values.dtype)


def _nearest_fp8(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    scaled = (values.float() / scales).clamp(-_FP8_LARGEST, _FP8_LARGEST)
    return scaled.to(torch.float8_e4m3fn).float() * scales
