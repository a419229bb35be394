"""Positive control: unlearning that one quantization grid undoes completely."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import RequestError
from ..registry import suggest
from ..robust.base import TrainingContext, TrainingPart
from . import CONTROLS
from .grids import GRIDS, bin_bounds


@CONTROLS.register(
    "bin_hidden",
    summary="Every weight stays in the quantization bin it started in, so that quantizing brings everything back.",
    paper="arXiv 2410.16454, section on why quantization recovers knowledge",
    defaults={"grid": "nf4", "margin": 0.05},
)
@dataclass
class BinHidden(TrainingPart):
    """Hides knowledge from full precision while leaving it in a quantized model, bit for bit.

    After each optimizer step every weight that will be quantized (all linear layers but the output head) is put back
    into the bin it started in, block maxima do not move, and nothing else is trained. The quantized result is then the
    quantized original, whatever full precision shows. No release should look like this; a verification that lets it
    pass does not look at the right files.

    Args:
        grid: The quantizer to hide from, a name of :data:`~hf_unlearn.controls.grids.GRIDS`.
        margin: Share of a bin kept clear at each edge, from 0 to below 0.5.

    Raises:
        RequestError: If there is no such grid, or the margin leaves no room.
    """

    grid: str = "nf4"
    margin: float = 0.05
    _bounds: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 0.5:
            raise RequestError(f"bin_hidden: margin is {self.margin}, it must lie from 0 to below 0.5")
        if self.grid not in GRIDS:
            raise RequestError(f"bin_hidden: there is no grid {self.grid!r}: {suggest(self.grid, sorted(GRIDS))}")

    def prepare(self, context: TrainingContext) -> None:
        """Takes down the bin of every weight and freezes all other parameters."""
        grid = GRIDS[self.grid]()
        weights = quantized_weights(context.model)
        if not weights:
            raise RequestError("bin_hidden: the model has no linear layer besides its output head")
        for parameter in context.model.parameters():
            parameter.requires_grad_(False)
        for name, weight in weights.items():
            weight.requires_grad_(True)
            self._bounds[name] = bin_bounds(weight, grid, self.margin)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Puts every weight back into its bin."""
        for name, weight in quantized_weights(model).items():
            low, high = self._bounds[name]
            weight.clamp_(low, high)


def quantized_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights that weight-only quantizers replace: those of linear layers, except the output head."""
    head_of: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = head_of()
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {f"{name}.weight": cast(nn.Parameter, module.weight) for name, module in linear if module is not head}
