"""Round-to-nearest integers of 8, 4, 3 or 2 bits, stored by compressed-tensors (``pack-quantized``).

The scale of a group is ``2 max|w| / (2^bits - 1)``, so that the grid ``-2^(bits-1) ... 2^(bits-1) - 1`` spans twice
the largest magnitude: min-max, no clipping, no calibration data.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from . import FORMATS
from .compressed import CompressedTensors, smallest_scale

# Bits and group sizes (``None``: a whole output row) of the formats that are made here.
SIZES: tuple[tuple[int, int | None], ...] = (
    *((8, None), (8, 128)),
    *((4, None), (4, 128), (4, 32)),
    *((3, None), (3, 128), (3, 32)),
    *((2, None), (2, 128), (2, 32)),
)


class RoundToNearest(CompressedTensors):
    """Symmetric integers, one scale per output row and group of ``group_size`` inputs."""

    bits: ClassVar[int]
    group_size: ClassVar[int | None]
    tolerance = 1e-4

    def weight_settings(self) -> dict[str, Any]:
        """Integers of ``bits``, in groups or by output row."""
        groups = {"strategy": "group", "group_size": self.group_size} if self.group_size else {"strategy": "channel"}
        return {"num_bits": self.bits, "type": "int", **groups}

    def scales(self, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
        """``2 max|w| / (2^bits - 1)`` of each group."""
        return group_scales(weight, self.bits, self.group_size, stored)

    def rounded(self, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
        """See :func:`rounded`."""
        return rounded(weight, self.bits, self.group_size, stored)


def group_scales(weight: torch.Tensor, bits: int, group_size: int | None, stored: torch.dtype) -> torch.Tensor:
    """Scales of a ``[out, in]`` weight as ``[out, groups]`` in float32, holding values of type ``stored``."""
    largest = _grouped(weight, group_size).abs().amax(-1)
    return smallest_scale(largest / ((2**bits - 1) / 2), stored)


def rounded(weight: torch.Tensor, bits: int, group_size: int | None, stored: torch.dtype) -> torch.Tensor:
    """``scale * clamp(round(weight / scale))`` for a ``[out, in]`` weight, in float32, ties to even."""
    scales = group_scales(weight, bits, group_size, stored).unsqueeze(-1)
    half = 2 ** (bits - 1)
    return ((_grouped(weight, group_size) / scales).round().clamp(-half, half - 1) * scales).flatten(-2)


def _grouped(weight: torch.Tensor, group_size: int | None) -> torch.Tensor:
    return weight.float().unflatten(-1, (-1, group_size or weight.shape[-1]))


def _register(bits: int, group_size: int | None) -> None:
    name = f"rtn-int{bits}-" + (f"g{group_size}" if group_size else "channel")
    shared = f"groups of {group_size}" if group_size else "one scale per output row"
    # Words that are not a whole number of codes were packed with gaps before 0.20.
    versions = ">=0.20" if bits == 3 else ""
    described: dict[str, Any] = {
        "name": name,
        "bits": bits,
        "group_size": group_size,
        "versions": versions,
        "__doc__": f"INT{bits}, {shared}.",
    }
    FORMATS.register(
        name,
        summary=f"round-to-nearest INT{bits}, {shared}, stored by compressed-tensors",
        defaults={"bits": bits, "group_size": group_size, "symmetric": True},
        needs=("compressed-tensors",),
    )(type(f"Int{bits}Group{group_size or 'Row'}", (RoundToNearest,), described))


for _bits, _group_size in SIZES:
    _register(_bits, _group_size)
