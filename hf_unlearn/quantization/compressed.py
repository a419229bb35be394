"""What formats stored by compressed-tensors share: scales from a formula, packing by the library, and the same formula
again for the weights they are checked against.

The library takes the scales as they are given and rounds by them; nothing is calibrated. Rounding is done in float32
with the scale as it is stored.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from ..models.loading import read_pretrained
from ..models.memory import release_memory
from .base import Format, Written, body_layers, check_groups, spared_layers
from .streaming import read_stored, streamed_logits


class CompressedTensors(Format):
    """Linear layers quantized one by one, the output head and the embeddings left as they are."""

    package = "compressed-tensors"
    packs_layers = True
    holds_experts = False

    @abstractmethod
    def weight_settings(self) -> dict[str, Any]:
        """Arguments of the library's ``QuantizationArgs`` for weights."""

    @abstractmethod
    def scales(self, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
        """Scales of a ``[out, in]`` weight: ``[out, groups]`` in float32, holding values of type ``stored``."""

    @abstractmethod
    def rounded(self, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
        """A ``[out, in]`` weight as the format holds it, in float32."""

    def input_settings(self) -> dict[str, Any] | None:
        """Arguments of the library's ``QuantizationArgs`` for the inputs of layers, if it rounds those too."""
        return None

    def rounded_inputs(self, values: torch.Tensor) -> torch.Tensor:
        """Inputs of a layer, ``[..., in]``, as the format rounds them before the product."""
        return values

    def check_model(self, model: PreTrainedModel) -> None:
        """Every linear layer must divide into whole groups."""
        self._layers(model)

    def write(self, source: Path, target: Path) -> Written:
        """Save the packed model, then round the source's weights by the plain formula and run those."""
        stored = AutoConfig.from_pretrained(source, trust_remote_code=False).dtype or torch.float32
        share = self._save_packed(source, target, stored)
        release_memory()
        plain = read_pretrained(source, stored)
        layers = self._layers(plain)
        if self.input_settings() is not None:
            for layer in layers.values():
                layer.register_forward_pre_hook(lambda _, inputs: (self.rounded_inputs(inputs[0]), *inputs[1:]))
        weights = {f"{name}.weight" for name in layers}

        def weight_of(name: str, values: torch.Tensor) -> torch.Tensor:
            return self.rounded(values, stored) if name in weights else values.float()

        return Written(streamed_logits(plain, weight_of), share)

    def reloaded_logits(self, target: Path) -> torch.Tensor:
        """As every format's; the library de-quantizes each layer when it is called, not all of them in advance."""
        from compressed_tensors.compressors.base import decompress_module

        model = read_stored(target)
        cast(Any, model).hf_quantizer.compressor.remove_decompression_hook(model)
        return streamed_logits(model, unpack=decompress_module)

    def _save_packed(self, source: Path, target: Path, stored: torch.dtype) -> float:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.compressors.base import compress_module
        from compressed_tensors.quantization import (
            QuantizationArgs,
            QuantizationConfig,
            QuantizationScheme,
            QuantizationStatus,
            apply_quantization_config,
        )

        model = read_pretrained(source, stored)
        layers = self._layers(model)
        inputs = self.input_settings()
        scheme = QuantizationScheme(
            targets=["Linear"],
            weights=QuantizationArgs(symmetric=True, **self.weight_settings()),
            input_activations=None if inputs is None else QuantizationArgs(symmetric=True, dynamic=True, **inputs),
        )
        spared = spared_layers(model)
        quantized = sum(layer.weight.numel() for layer in layers.values())
        share = quantized / sum(parameter.numel() for parameter in model.parameters())
        config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=spared)
        apply_quantization_config(model, config, show_progress=False)
        compressor = ModelCompressor.from_pretrained_model(model)
        # One layer after the other, so that only one is in float32, the type the library rounds in.
        for layer in layers.values():
            layer.weight.data = layer.weight.data.float()
            layer.get_parameter("weight_scale").data = self.scales(layer.weight.data, stored)
            compress_module(layer)
        cast(Any, compressor.quantization_config).quantization_status = QuantizationStatus.COMPRESSED
        _cast_rest(model, stored)
        model.save_pretrained(target)
        compressor.update_config(str(target))
        _spare(target, spared)
        return share

    def _layers(self, model: PreTrainedModel) -> dict[str, nn.Linear]:
        layers = body_layers(model, self.name)
        if self.group_size is not None:
            check_groups(layers, self.group_size, self.name)
        return layers


def _spare(target: Path, layers: Sequence[str]) -> None:
    """Names layers that are not quantized as the model does.

    transformers writes the names that weights have in files, which are others in some families (GPT-NeoX), and looks
    for those of the modules when it loads: it would expect packed layers.
    """
    path = target / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    spared = config["quantization_config"]["ignore"]
    if missing := [name for name in layers if name not in spared]:
        config["quantization_config"]["ignore"] = [*spared, *missing]
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _cast_rest(model: PreTrainedModel, stored: torch.dtype) -> None:
    """Give everything the source's type again but packed codes (``.to`` would also cast 8-bit floats)."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.element_size() > 1:
                tensor.data = tensor.data.to(stored)
    cast(Any, model.config).dtype = stored


def smallest_scale(scales: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    """Float32 scales as ``stored`` holds them; a group of zeros gets the smallest useful scale instead of zero."""
    kept = scales.to(stored)
    return torch.where(kept == 0, torch.finfo(stored).eps, kept).float()
