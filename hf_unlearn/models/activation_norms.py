"""How long the inputs of linear layers are on some rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def input_norms(
    layers: Mapping[str, nn.Linear], batches: Iterable[Any], run: Callable[[Any], object]
) -> dict[str, Tensor]:
    """The length of each input channel over the tokens of a row, as a mean over rows.

    Args:
        layers: Linear layers by name.
        batches: Micro-batches with an ``attention_mask`` ``[batch, time]``.
        run: Runs the model on one of them.

    Returns:
        ``[in]`` in float32 for each layer, by its name.
    """
    totals: dict[str, Tensor] = {}
    mask = torch.zeros(0, 0, dtype=torch.bool)

    def watch(name: str) -> Any:
        def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept = inputs[0].float() * mask.to(inputs[0].device)[..., None]
            found = torch.linalg.vector_norm(kept, dim=1).sum(dim=0)
            totals[name] = totals[name] + found if name in totals else found

        return take

    rows = 0
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(watch(name)).remove)
        for batch in batches:
            mask = batch["attention_mask"].bool()
            run(batch)
            rows += len(mask)
    return {name: total / max(rows, 1) for name, total in totals.items()}
