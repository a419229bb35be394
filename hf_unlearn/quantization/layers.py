"""Which weights are quantized: those of all linear layers but the output head."""

from __future__ import annotations

from typing import Any, cast

from torch import nn


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers besides the output head, by name; none where the model has none."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    }


def linear_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of :func:`linear_layers`, ``[out, in]`` each, by parameter name."""
    return {f"{name}.weight": cast(nn.Parameter, layer.weight) for name, layer in linear_layers(model).items()}
