"""Running a model in float32 without holding it in float32.

A model is kept as it is stored. Each module gets its own tensors in float32 when it is called, and gives them up when
it returns: activations are float32 throughout, and at most one module's weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..models.loading import read_pretrained, run_device
from ..runtime.log_filters import hidden_library_bars, quiet_backends
from .base import Format, Written, probe_logits

#: From a parameter's name and what the model holds for it to what it is to run with, in float32.
WeightOf = Callable[[str, Tensor], Tensor]


class StreamedFormat(Format):
    """A format whose folders run in float32 as they are stored, module by module."""

    def reloaded_logits(self, target: Path) -> Tensor:
        """As every format's, without a float32 copy of what is not quantized."""
        return streamed_logits(read_stored(target))


def read_stored(folder: Path) -> PreTrainedModel:
    """The model of a folder in the types that are stored, where scoring would run it; errors as in loading."""
    quiet_backends()
    device_map = {"": run_device()} if torch.cuda.is_available() else None
    with hidden_library_bars():
        return read_pretrained(folder, "auto", device_map=device_map)


def in_float32(name: str, stored: Tensor) -> Tensor:
    """What is stored, as it is."""
    return stored.float()


def streamed_logits(
    model: PreTrainedModel, weight_of: WeightOf = in_float32, unpack: Callable[[nn.Module], Any] | None = None
) -> Tensor:
    """Float32 logits of the fixed input, with the weights of one module at a time in float32.

    Args:
        model: Not to be used afterwards. Weights that are no floating-point numbers of 16 or more bits are left to
            the layers that hold them.
        weight_of: Makes each parameter when it is needed; one that is tied has the name of its first place.
        unpack: Called with a module after its tensors became float32, to make others of them for the call.

    Returns:
        ``[rows, length, vocabulary]`` on the CPU.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def prepare(module: nn.Module) -> None:
        for key, parameter in module._parameters.items():
            if parameter is not None and _is_wide_float(parameter):
                value = weight_of(names[id(parameter)], parameter.detach())
                module._parameters[key] = nn.Parameter(value, requires_grad=False)
        for key, buffer in module._buffers.items():
            if buffer is not None and _is_wide_float(buffer):
                module._buffers[key] = buffer.float()
        if unpack is not None:
            unpack(module)

    modules = [module for module in model.modules() if module._parameters or module._buffers]
    hooks = [hook for module in modules for hook in _for_each_call(module, prepare)]
    try:
        try:
            return probe_logits(model)
        finally:
            for hook in hooks:
                hook.remove()
    except RuntimeError:
        # A few architectures use weights of modules that they do not call, which are of another type then: those
        # models run whole in float32, and an error with another reason comes again.
        for module in modules:
            prepare(module)
        return probe_logits(model)


def dequantized_run(
    model: PreTrainedModel, layers: Mapping[str, nn.Linear], weight: Callable[[nn.Linear], Tensor]
) -> Written:
    """Run what a library's quantized layers hold without the library's own products.

    Args:
        model: Not to be used afterwards.
        layers: Its quantized layers by name, none of which has run.
        weight: The de-quantized float32 weight ``[out, in]`` of one of them.
    """
    for name, layer in layers.items():
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.bias = layer.bias
        model.set_submodule(name, plain)

    def weight_of(name: str, stored: Tensor) -> Tensor:
        layer = layers.get(name.removesuffix(".weight"))
        return stored.float() if layer is None or name.endswith(".bias") else weight(layer)

    quantized = sum(layer.in_features * layer.out_features for layer in layers.values())
    share = quantized / sum(parameter.numel() for parameter in model.parameters())
    return Written(streamed_logits(model, weight_of), quantized_share=share)


def _is_wide_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() > 1


def _for_each_call(module: nn.Module, prepare: Callable[[nn.Module], None]) -> list[Any]:
    """Have a module's own tensors prepared before each call and put back after it; returns the hooks."""
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def before(*_: Any) -> None:
        kept.append((dict(module._parameters), dict(module._buffers)))
        prepare(module)

    def after(*_: Any) -> None:
        parameters, buffers = kept.pop()
        module._parameters.clear()
        module._parameters.update(parameters)
        module._buffers.clear()
        module._buffers.update(buffers)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]
