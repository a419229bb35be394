"""The weights that will be deployed: those of linear layers, with adapters merged into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..errors import RequestError
from .weights import exchanged


class Change(Protocol):
    """A change of a deployed weight."""

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """``[out, in]`` from ``[out, in]``; the weight itself must stay as it is."""


@dataclass(frozen=True)
class DeployedLayer:
    """A linear layer that weight-only quantizers replace.

    Attributes:
        name: Of the layer.
        parameter: Its weight, ``[out, in]``; that of the base layer if there are adapters.
        adapted: The layer with its low-rank adapters around it; ``None`` for none.
    """

    name: str
    parameter: nn.Parameter
    adapted: Any = None

    def shift(self) -> Tensor | None:
        """What active adapters add to the weight, ``[out, in]``; ``None`` for nothing."""
        if self.adapted is None or self.adapted.disable_adapters or self.adapted.merged:
            return None
        parts = [self.adapted.get_delta_weight(name) for name in self.adapted.active_adapters]
        return sum(parts[1:], parts[0]).to(self.parameter.dtype) if parts else None


def deployed_layers(model: nn.Module, part: str) -> list[DeployedLayer]:
    """All linear layers but the output head, adapters counted with the layer they belong to.

    Args:
        model: A causal language model, with or without LoRA.
        part: The caller's name, for the message.

    Raises:
        RequestError: There is none, its weights are stored quantized, or its adapters are not plain LoRA.
    """
    head_of: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = head_of()
    head = getattr(head, "base_layer", head)
    adapted = {
        name: cast(Any, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight")
    }
    layers = [_adapted_layer(name, module, part) for name, module in adapted.items()]
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in adapted)
        if isinstance(module, nn.Linear) and not inside and name not in adapted:
            layers.append(DeployedLayer(name, cast(nn.Parameter, module.weight)))
    head_weight = getattr(head, "weight", None)
    layers = [layer for layer in layers if layer.parameter is not head_weight]
    if not layers:
        raise RequestError(f"{part}: the model has no linear layer besides its output head")
    for layer in layers:
        if not layer.parameter.is_floating_point():
            raise RequestError(
                f"{part}: {layer.name} is already stored quantized, and rounding it again means nothing: load"
                " the model without quantization_config"
            )
    return layers


def _adapted_layer(name: str, module: Any, part: str) -> DeployedLayer:
    base = getattr(module, "base_layer", None)
    if not isinstance(base, nn.Linear) or any(getattr(module, "use_dora", {}).values()):
        raise RequestError(
            f"{part}: the adapters of {name} are not plain LoRA on a linear layer, so the deployed weights are not"
            " known before they are merged: train without use_dora, and on linear layers only"
        )
    return DeployedLayer(name, cast(nn.Parameter, base.weight), module)


@contextmanager
def changed_weights(layers: list[DeployedLayer], change: Change) -> Iterator[None]:
    """The model with each deployed weight changed, within the block.

    With adapters the base weight becomes ``change(W + A) - A``, so the layer gives the output of the changed merged
    weight, while gradients still reach the adapters.

    Args:
        layers: Of :func:`deployed_layers`.
        change: Gives the weight that is deployed, from the one that would be without it.
    """

    def values() -> Iterator[tuple[nn.Parameter, Tensor]]:
        for layer in layers:
            own, shift = layer.parameter.detach(), layer.shift()
            if shift is None:
                yield layer.parameter, change(layer.name, own).to(own.dtype)
            else:
                yield layer.parameter, (change(layer.name, own + shift) - shift).to(own.dtype)

    with torch.no_grad():
        pairs = list(values())
    with exchanged(pairs):
        yield
