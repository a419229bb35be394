"""bitsandbytes: INT8 with outliers in 16 bits, and the two 4-bit grids NF4 and FP4.

The order of work matters. On CPUs with AVX512-BF16 the first forward of a 4-bit model repacks its weights in place,
and what is saved after that is wrong (without double quantization the block maxima are not restored). So a model is
quantized, saved before any forward, dropped, and only the re-loaded folder is ever run. The logits it is checked
against come from weights that bitsandbytes de-quantized in memory, before any packing.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel

from ..errors import RequestError
from ..models.decoder import tower_layers
from ..models.loading import empty_model, read_pretrained, run_device
from . import FORMATS
from .base import Format, Written, spared_layers
from .streaming import dequantized_run


class BitsAndBytes(Format):
    """A format that ``from_pretrained(..., quantization_config=...)`` makes while it loads."""

    package = "bitsandbytes"
    packs_layers = True

    @abstractmethod
    def settings(self, source: Path) -> BitsAndBytesConfig:
        """The quantization settings for this source."""

    def check_layers(self, layers: dict[str, nn.Linear]) -> None:
        """Raise :class:`RequestError` if this machine could not run these quantized layers; here it always can."""

    def write(self, source: Path, target: Path) -> Written:
        """Quantize while loading, save before any forward, then de-quantize in memory and run that."""
        settings = self.settings(source)
        # Where nothing is named, the library spares the head by itself.
        empty = empty_model(source)
        settings.llm_int8_skip_modules = spared_layers(empty) if tower_layers(empty) else None
        model = read_pretrained(source, "auto", quantization_config=settings, device_map={"": run_device()})
        layers = quantized_layers(model)
        if not layers:
            raise RequestError(f"{source} has no linear layer besides its output head: {self.name} changes nothing")
        self.check_layers(layers)
        model.save_pretrained(target)
        return dequantized_run(model, layers, dequantized)


@FORMATS.register(
    "bnb-int8",
    summary="bitsandbytes LLM.int8(): row-wise INT8 weights, activation outliers in 16 bits",
    paper="arXiv 2208.07339",
    defaults={"bits": 8, "llm_int8_threshold": 6.0},
    needs=("bitsandbytes",),
)
class Int8(BitsAndBytes):
    """INT8 with one scale per output row; activations are quantized per token, columns above 6.0 are not."""

    name = "bnb-int8"
    bits = 8
    # Activations are rounded to 8 bits too: about 0.02 on small models with random weights.
    tolerance = 0.1

    def settings(self, source: Path) -> BitsAndBytesConfig:
        """8-bit settings with the library's defaults."""
        return BitsAndBytesConfig(load_in_8bit=True)


class FourBit(BitsAndBytes):
    """A 16-level grid, scaled by the largest magnitude of each block of 64 weights.

    Double quantization rounds the block maxima as well. It is off in the formats without ``-dq`` in their name, so
    a grid step is as in the papers.
    """

    bits = 4
    group_size = 64
    # The CPU kernel and 16-bit compute types round activations; wrong block maxima give errors of 0.3 and more.
    tolerance = 0.08
    levels: ClassVar[str]
    double: ClassVar[bool] = False

    def settings(self, source: Path) -> BitsAndBytesConfig:
        """4-bit settings that compute in the source's own type."""
        dtype = AutoConfig.from_pretrained(source, trust_remote_code=False).dtype
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.levels,
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=dtype or torch.float32,
        )

    def check_layers(self, layers: dict[str, nn.Linear]) -> None:
        """The AVX512-BF16 kernel takes whole blocks of 64 inputs and 32 outputs only."""
        for name, layer in layers.items():
            on_kernel = layer.weight.device.type == "cpu" and getattr(layer, "support_avx512bf16_for_cpu", False)
            if on_kernel and (layer.in_features % 64 or layer.out_features % 32):
                raise RequestError(
                    f"{self.name} on this CPU needs layers with inputs in multiples of 64 and outputs in multiples of "
                    f"32, but {name} has {layer.in_features} and {layer.out_features}: use a GPU or another format"
                )


@FORMATS.register(
    "bnb-nf4",
    summary="bitsandbytes NF4: 16 normal quantiles, blocks of 64, no double quantization",
    paper="arXiv 2305.14314",
    defaults={"bits": 4, "block": 64, "double_quantization": False},
    needs=("bitsandbytes",),
)
class NF4(FourBit):
    """The 4-bit NormalFloat grid."""

    name = "bnb-nf4"
    levels = "nf4"


@FORMATS.register(
    "bnb-fp4",
    summary="bitsandbytes FP4: 4-bit floating point, blocks of 64, no double quantization",
    paper="arXiv 2410.16454 (the grid behind its 4-bit results)",
    defaults={"bits": 4, "block": 64, "double_quantization": False},
    needs=("bitsandbytes",),
)
class FP4(FourBit):
    """The 4-bit floating point grid, which is what ``load_in_4bit=True`` alone gives."""

    name = "bnb-fp4"
    levels = "fp4"


@FORMATS.register(
    "bnb-nf4-dq",
    summary="bitsandbytes NF4 with double quantization: the block maxima in 8 bits, blocks of 256 of them",
    paper="arXiv 2305.14314, section 3",
    defaults={"bits": 4, "block": 64, "double_quantization": True},
    needs=("bitsandbytes",),
)
class DoubleNF4(FourBit):
    """NF4 as QLoRA uses it; its maxima have about three significant digits."""

    name = "bnb-nf4-dq"
    levels = "nf4"
    double = True


@FORMATS.register(
    "bnb-fp4-dq",
    summary="bitsandbytes FP4 with double quantization: the block maxima in 8 bits, blocks of 256 of them",
    paper="arXiv 2305.14314, section 3 (double quantization)",
    defaults={"bits": 4, "block": 64, "double_quantization": True},
    needs=("bitsandbytes",),
)
class DoubleFP4(FourBit):
    """FP4 with its block maxima quantized once more."""

    name = "bnb-fp4-dq"
    levels = "fp4"
    double = True


def quantized_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The layers bitsandbytes took over, by name."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return {name: module for name, module in model.named_modules() if isinstance(module, (Linear4bit, Linear8bitLt))}


def dequantized(layer: nn.Linear) -> torch.Tensor:
    """The float32 weight ``[out, in]`` of a bitsandbytes layer that has not run yet."""
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit

    weight: Any = layer.weight
    if isinstance(layer, Linear4bit):
        return functional.dequantize_4bit(weight.data, weight.quant_state).float()
    return functional.int8_vectorwise_dequant(weight.data, weight.SCB).float()
