"""Round-to-nearest INT4 in groups along the input dimension, stored by compressed-tensors (W4A16, ``pack-quantized``).

The scale of a group is ``max|w| / 7.5``, so that the grid ``-8 ... 7`` spans twice the largest magnitude: min-max, no
clipping, no calibration data. Rounding is done in float32 with the scale as it is stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from ..errors import RequestError
from ..evaluation.loading import read_pretrained
from . import FORMATS
from .base import Format, Written, head_name, probe_logits

_LOWEST, _HIGHEST = -8, 7


class RoundToNearest(Format):
    """Symmetric 4-bit integers, one scale per output row and group of ``group_size`` inputs."""

    bits = 4
    group_size: ClassVar[int]
    package = "compressed-tensors"
    tolerance = 1e-4

    def check_model(self, model: PreTrainedModel) -> None:
        """Every linear layer must fall into whole groups."""
        self._layers(model)

    def write(self, source: Path, target: Path) -> Written:
        """Save the packed model, then round the source's weights by the plain formula and run those."""
        stored = AutoConfig.from_pretrained(source).dtype or torch.float32
        share = self._save_packed(source, target, stored)
        plain = read_pretrained(source, torch.float32)
        with torch.no_grad():
            for layer in self._layers(plain).values():
                layer.weight.copy_(rounded(layer.weight, self.group_size, stored))
        return Written(probe_logits(plain), share)

    def _save_packed(self, source: Path, target: Path, stored: torch.dtype) -> float:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationArgs,
            QuantizationConfig,
            QuantizationScheme,
            apply_quantization_config,
        )

        model = read_pretrained(source, torch.float32)
        layers = self._layers(model)
        grid = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=self.group_size, symmetric=True)
        head = head_name(model)
        config = QuantizationConfig(
            config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=grid)},
            ignore=[head] if head else [],
        )
        quantized = sum(layer.weight.numel() for layer in layers.values())
        share = quantized / sum(parameter.numel() for parameter in model.parameters())
        apply_quantization_config(model, config, show_progress=False)
        with torch.no_grad():
            for layer in layers.values():
                layer.get_parameter("weight_scale").copy_(group_scales(layer.weight, self.group_size, stored))
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        cast(nn.Module, model).to(stored)
        model.save_pretrained(target)
        compressor.update_config(str(target))
        return share

    def _layers(self, model: PreTrainedModel) -> dict[str, nn.Linear]:
        head = head_name(model)
        layers = {
            name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != head
        }
        if not layers:
            raise RequestError(
                f"{model.name_or_path} has no linear layer besides its output head: {self.name} changes nothing"
            )
        for name, layer in layers.items():
            if layer.in_features % self.group_size:
                raise RequestError(
                    f"{self.name} needs input sizes in multiples of {self.group_size}, but {name} has "
                    f"{layer.in_features}: use a format with a smaller group"
                )
        return layers


@FORMATS.register(
    "rtn-int4-g128",
    summary="round-to-nearest INT4, groups of 128, stored by compressed-tensors",
    defaults={"bits": 4, "group_size": 128, "symmetric": True},
    needs=("compressed-tensors",),
)
class Group128(RoundToNearest):
    """Groups of 128, the usual size of W4A16 releases."""

    name = "rtn-int4-g128"
    group_size = 128


@FORMATS.register(
    "rtn-int4-g32",
    summary="round-to-nearest INT4, groups of 32, stored by compressed-tensors",
    defaults={"bits": 4, "group_size": 32, "symmetric": True},
    needs=("compressed-tensors",),
)
class Group32(RoundToNearest):
    """Groups of 32: a finer grid."""

    name = "rtn-int4-g32"
    group_size = 32


def group_scales(weight: torch.Tensor, group_size: int, stored: torch.dtype) -> torch.Tensor:
    """Scales of a ``[out, in]`` weight as ``[out, in / group_size]`` in float32, holding values of type ``stored``.

    A group of zeros gets the smallest useful scale instead of zero.
    """
    largest = weight.float().unflatten(-1, (-1, group_size)).abs().amax(-1)
    scales = (largest / ((_HIGHEST - _LOWEST) / 2)).to(stored)
    return torch.where(scales == 0, torch.finfo(stored).eps, scales).float()


def rounded(weight: torch.Tensor, group_size: int, stored: torch.dtype) -> torch.Tensor:
    """``scale * clamp(round(weight / scale), -8, 7)`` for a ``[out, in]`` weight, in float32, ties to even."""
    scales = group_scales(weight, group_size, stored).unsqueeze(-1)
    groups = weight.float().unflatten(-1, (-1, group_size))
    return ((groups / scales).round().clamp(_LOWEST, _HIGHEST) * scales).flatten(-2)
