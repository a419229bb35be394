"""Reading GPTQ and AWQ files without the library that wrote them: the stored integers, and the weights they represent.

Both formats hold, for a layer with ``in`` inputs and ``out`` outputs, integers ``qweight``, and integers ``qzeros``
and ``scales`` per group of inputs, several integers to a 32-bit word. The weight is ``scale * (code - zero)``. They
differ in how the integers are packed (Frantar et al., arXiv 2210.17323; Lin et al., arXiv 2306.00978; the layouts are
those of the ``gptq`` and ``gemm`` checkpoint formats).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, PreTrainedModel

from ..errors import EnvironmentFailure
from .loading import plain_model_of

Unpack = Callable[[Mapping[str, Tensor], int, int], Tensor]
# Place of the k-th value of eight in an AWQ word.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def unpack(words: Tensor, bits: int) -> Tensor:
    """Integers from 32-bit words, lowest bits first; a value may span two words.

    Args:
        words: ``[n * bits / 32, columns]``, int32.
        bits: Bits per value.

    Returns:
        ``[n, columns]``, int64.
    """
    blocks = words.long().bitwise_and(0xFFFFFFFF).unflatten(0, (-1, bits))
    start = torch.arange(32, device=words.device) * bits
    word, shift = start // 32, (start % 32)[:, None]
    following = blocks[:, (word + 1).clamp_max(bits - 1)]
    values = (blocks[:, word] >> shift) | (following << (32 - shift))
    return values.bitwise_and(2**bits - 1).flatten(0, 1)


def gptq_weight(parts: Mapping[str, Tensor], bits: int, group_size: int) -> Tensor:
    """The weight ``[out, in]`` in float32 of a layer in the ``gptq`` layout: packed along inputs, zeros minus one."""
    codes = unpack(parts["qweight"], bits)
    zeros = (unpack(parts["qzeros"].T.contiguous(), bits).T + 1).bitwise_and(2**bits - 1)
    group = parts["g_idx"].long()
    scales = parts["scales"].float()
    return ((codes - zeros[group]).float() * scales[group]).T


def awq_weight(parts: Mapping[str, Tensor], bits: int, group_size: int) -> Tensor:
    """The weight ``[out, in]`` in float32 of a layer in the ``gemm`` layout: packed along outputs, in AWQ's order."""
    codes, zeros = (_awq_columns(parts[name], bits) for name in ("qweight", "qzeros"))
    spread = [item.repeat_interleave(group_size, 0) for item in (zeros, parts["scales"].float())]
    return ((codes - spread[0]).float() * spread[1]).T


def _awq_columns(words: Tensor, bits: int) -> Tensor:
    shifts = torch.tensor(_AWQ_ORDER, device=words.device) * bits
    values = words.long().unsqueeze(-1) >> shifts
    return values.bitwise_and(2**bits - 1).flatten(-2)


class PackedLinear(nn.Module):
    """A linear layer that reads its weight from the file each time it is called, so only one is ever in memory.

    Args:
        folder: The folder with the file.
        name: Name of the layer in it.
        weight: Makes the weight from what is stored.
        bias: The layer's bias ``[out]``, if it has one.
    """

    def __init__(self, files: dict[str, Path], name: str, weight: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        super().__init__()
        self._files, self._name, self._weight = files, name, weight
        self._bias = self._read("bias") if f"{name}.bias" in files else None

    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs @ weight.T + bias`` in the inputs' type."""
        stored = {part: self._read(part) for part in _PARTS if f"{self._name}.{part}" in self._files}
        weight = self._weight({part: tensor.to(inputs.device) for part, tensor in stored.items()})
        bias = None if self._bias is None else self._bias.to(inputs)
        return functional.linear(inputs, weight.to(inputs.dtype), bias)

    def _read(self, part: str) -> Tensor:
        key = f"{self._name}.{part}"
        with safe_open(self._files[key], "pt") as file:
            return file.get_tensor(key)


def packed_layers(files: Mapping[str, Path]) -> list[str]:
    """Names of the quantized layers among stored tensors."""
    return [name.removesuffix(".qweight") for name in files if name.endswith(".qweight")]


def stored_tensors(folder: Path) -> dict[str, Path]:
    """The file that holds each tensor of a folder, by the tensor's name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found.update(dict.fromkeys(file.keys(), path))
    return found


def plain_model(folder: Path, device: torch.device, unpacked: Unpack, bits: int, group_size: int) -> PreTrainedModel:
    """The model of a packed folder in float32, made only from what is in its files.

    Args:
        folder: The written folder.
        device: Where to put what is not quantized; layers are unpacked there one by one as they are called.
        unpacked: :func:`gptq_weight` or :func:`awq_weight`.
        bits: Bits per weight.
        group_size: Inputs that share a scale.

    Returns:
        A model for forward passes, in eval mode.

    Raises:
        EnvironmentFailure: The files lack a weight.
    """
    model = plain_model_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    files = stored_tensors(folder)
    layers = packed_layers(files)
    for name in layers:
        model.set_submodule(name, PackedLinear(files, name, lambda parts: unpacked(parts, bits, group_size)))
    rest = {name: path for name, path in files.items() if name.rpartition(".")[0] not in layers}
    model.load_state_dict({name: _read(path, name) for name, path in rest.items()}, strict=False, assign=True)
    model.tie_weights()
    if missing := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise EnvironmentFailure(f"{folder} was written without {missing[0]} and {len(missing) - 1} more weights")
    torch.nn.Module.to(model, device)
    return model.eval()


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name).float()
