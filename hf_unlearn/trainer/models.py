"""Models as a trainer wants them."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from ..errors import RequestError
from ..evaluation.loading import read_pretrained
from .sharding import gathered


def load_causal_lm(model: str | nn.Module, init_kwargs: dict[str, Any] | str | None) -> nn.Module:
    """Loads a model in float32 (or as ``init_kwargs["dtype"]`` says), or hands back the one given.

    Raises:
        RequestError: If there is no such model, it lacks some of its weights, or ``init_kwargs`` is no mapping.
    """
    if not isinstance(model, str):
        return model
    if isinstance(init_kwargs, str):
        raise RequestError(f"model_init_kwargs must be a mapping, not {init_kwargs!r}")
    return read_pretrained(model, **{"dtype": "float32", **(init_kwargs or {})})


def disable_dropout(model: nn.Module) -> None:
    """Sets every dropout probability to zero."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def frozen_copy(model: nn.Module) -> nn.Module:
    """A second model with the same weights, which nothing trains. Weights in pieces (ZeRO-3) are whole in the copy."""
    with gathered(model):
        return copy.deepcopy(model).requires_grad_(False).eval()
