"""Layers by number, and a model that ends after one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..errors import RequestError
from ..evaluation.decoder import decoder_layers, decoder_stack


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
    stack = decoder_stack(model)
    setattr(stack.owner, stack.name, stack.layers[: layer + 1])
    try:
        yield
    finally:
        setattr(stack.owner, stack.name, stack.layers)
