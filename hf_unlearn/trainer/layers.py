"""The stack of decoder layers inside a causal language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import RequestError


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, in order.

    They are the outermost list of modules as long as the configuration says the model is deep, so that no list of
    model families is needed.

    Raises:
        RequestError: There is no such list.
    """
    return _stack(model)[2]


def check_layer(model: nn.Module, layer: int, what: str) -> None:
    """Refuse a layer that the model does not have.

    Raises:
        RequestError: Names ``what`` asked for it and how many layers there are.
    """
    count = len(decoder_layers(model))
    if not 0 <= layer < count:
        raise RequestError(f"{what} is {layer}, but {type(model).__name__} has {count} layers: use 0 to {count - 1}")


@contextmanager
def cut_after(model: nn.Module, layer: int) -> Iterator[None]:
    """A model that is no deeper than ``layer``, for as long as this lasts. Its weights stay where they are.

    What the shorter model gives at its end means nothing; hooks on its layers see what they would see otherwise.
    """
    owner, name, layers = _stack(model)
    setattr(owner, name, layers[: layer + 1])
    try:
        yield
    finally:
        setattr(owner, name, layers)


def _stack(model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    depth = getattr(config, "num_hidden_layers", None)
    for _, owner in model.named_modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return owner, name, child
    raise RequestError(
        f"the decoder layers of {type(model).__name__} were not found: a loss that looks at hidden states cannot be "
        "used with it"
    )
