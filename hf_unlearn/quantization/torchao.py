"""torchao: INT8 weights by output row, alone or with activations rounded as well.

Its packed 4-bit formats need a GPU, its unpacked ones store a whole byte for each weight, and a folder with its FP8
weights runs in no other type than the one it was made from, so none of those is here.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, TorchAoConfig

from ..models.decoder import tower_layers
from ..models.loading import empty_model, read_pretrained, run_device
from . import FORMATS
from .base import Format, Written, body_layers, spared_layers
from .streaming import dequantized_run


class TorchAo(Format):
    """A format that ``from_pretrained(..., quantization_config=TorchAoConfig(...))`` makes while it loads."""

    package = "torchao"
    packs_layers = True
    versions = ">=0.18"
    extra = "torchao"

    @abstractmethod
    def settings(self) -> Any:
        """The library's configuration object."""

    def check_model(self, model: PreTrainedModel) -> None:
        """There must be something to quantize."""
        body_layers(model, self.name)

    def write(self, source: Path, target: Path) -> Written:
        """Quantize while loading, save, then de-quantize in memory and run that."""
        empty = empty_model(source)
        # Where nothing is named, the library spares the head by itself.
        spared = spared_layers(empty) if tower_layers(empty) else None
        settings = TorchAoConfig(self.settings(), modules_to_not_convert=spared)
        model = read_pretrained(source, "auto", quantization_config=settings, device_map={"": run_device()})
        layers = body_layers(model, self.name)
        model.save_pretrained(target)
        return dequantized_run(model, layers, _dequantized)


@FORMATS.register(
    "torchao-int8",
    summary="torchao INT8 weights by output row; activations stay as they are",
    defaults={"bits": 8, "group_size": None},
    needs=("torchao",),
)
class Int8WeightOnly(TorchAo):
    """``Int8WeightOnlyConfig``."""

    name = "torchao-int8"
    bits = 8
    tolerance = 1e-3

    def settings(self) -> Any:
        """The library's defaults."""
        from torchao.quantization import Int8WeightOnlyConfig

        return Int8WeightOnlyConfig()


@FORMATS.register(
    "torchao-int8-dynamic",
    summary="torchao INT8 weights by output row, activations rounded to INT8 by token",
    defaults={"bits": 8, "group_size": None, "activations": "int8"},
    needs=("torchao",),
)
class Int8Dynamic(TorchAo):
    """``Int8DynamicActivationInt8WeightConfig``."""

    name = "torchao-int8-dynamic"
    bits = 8
    # Activations are rounded to 8 bits too: about 0.015 on small models with random weights.
    tolerance = 0.1

    def settings(self) -> Any:
        """The library's defaults."""
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig

        return Int8DynamicActivationInt8WeightConfig()


def _dequantized(layer: nn.Linear) -> torch.Tensor:
    """The float32 weight ``[out, in]`` of a quantized layer."""
    weight = cast(Any, layer.weight)
    # Not dequantize(), which rounds to the type that the folder was made from; the products here do not.
    dense: torch.Tensor = weight.qdata.float() * weight.scale.float()
    return dense
