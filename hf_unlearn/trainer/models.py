"""Models as a trainer wants them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import MissingExtraError, RequestError
from ..evaluation.loading import read_pretrained

if TYPE_CHECKING:
    from peft import PeftConfig


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


def add_adapters(model: nn.Module, config: PeftConfig) -> nn.Module:
    """New adapters on a frozen model.

    Raises:
        MissingExtraError: If peft is not installed.
        RequestError: If the model has adapters already.
    """
    try:
        from peft import PeftModel, get_peft_model
    except ImportError as error:
        raise MissingExtraError("peft_config", "peft", "peft") from error
    if isinstance(model, PeftModel):
        raise RequestError("the model has adapters already: merge them first, or leave peft_config out to train them")
    return get_peft_model(model, config)


def disable_dropout(model: nn.Module) -> None:
    """Sets every dropout probability to zero."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def frozen_copy(model: nn.Module) -> nn.Module:
    """A second model with the same weights, which nothing trains."""
    return copy.deepcopy(model).requires_grad_(False).eval()
