"""The stack of decoder layers inside a causal language model, whatever its family calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import RequestError


@dataclass(frozen=True)
class DecoderStack:
    """Where a model keeps its decoder layers.

    Attributes:
        owner: The module they belong to.
        name: What they are called there.
        layers: The layers, in order.
    """

    owner: nn.Module
    name: str
    layers: nn.ModuleList


def decoder_stack(model: nn.Module) -> DecoderStack:
    """The outermost list of modules that is as long as the configuration says the model is deep.

    Raises:
        RequestError: There is no such list.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    depth = getattr(config, "num_hidden_layers", None)
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return DecoderStack(owner, name, child)
    raise RequestError(
        f"the decoder layers of {type(model).__name__} were not found: losses, attacks, metrics and controls that "
        "look at layers cannot be used with it"
    )


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, in order.

    Raises:
        RequestError: They were not found.
    """
    return decoder_stack(model).layers
