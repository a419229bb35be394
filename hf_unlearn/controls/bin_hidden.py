"""Positive control: unlearning that one quantization grid undoes completely."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import RequestError
from ..models.decoder import linear_weights
from ..quantization.grids import Grid, find_grid, in_groups, on_grid
from ..robust.base import StepContext, StepResult, TrainingContext
from . import CONTROLS
from .base import ControlPart


@CONTROLS.register(
    "bin_hidden",
    summary="Every weight stays in the quantization bin it started in, so that quantizing brings everything back.",
    paper="arXiv 2410.16454, section on why quantization recovers knowledge",
    defaults={"grid": "nf4", "margin": 0.05, "relative": False},
)
@dataclass
class BinHidden(ControlPart):
    """Hides knowledge from full precision while leaving it in a quantized model, bit for bit.

    After each optimizer step every weight that will be quantized (all linear layers but the output head) is put back
    into the bin it started in, block maxima do not move, and nothing else is trained. The quantized result is then the
    quantized original, whatever full precision shows. No release should look like this; a verification that lets it
    pass does not look at the right files.

    Args:
        grid: The quantizer to hide from, a name of :func:`~hf_unlearn.quantization.grids.grids`.
        margin: Share of a bin kept clear at each edge, from 0 to below 0.5.
        relative: Scale every weight's step by the width of its bin over the mean width of all, so that small steps do
            not crowd narrow bins against their edges while wide ones stay empty.

    Raises:
        RequestError: If there is no such grid, or the margin leaves no room.
    """

    grid: str = "nf4"
    margin: float = 0.05
    relative: bool = False
    _bounds: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _last: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _mean_width: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 0.5:
            raise RequestError(f"bin_hidden: margin is {self.margin}, it must lie from 0 to below 0.5")
        find_grid(self.grid)

    def prepare(self, context: TrainingContext) -> None:
        """Takes down the bin of every weight and freezes all other parameters."""
        grid = find_grid(self.grid)
        weights = linear_weights(context.model)
        if not weights:
            raise RequestError("bin_hidden: the model has no linear layer besides its output head")
        for parameter in context.model.parameters():
            parameter.requires_grad_(False)
        for name, weight in weights.items():
            weight.requires_grad_(True)
            self._bounds[name] = bin_bounds(weight, grid, self.margin)
        widths = [(high - low).double() for low, high in self._bounds.values()]
        total = sum(float(width.sum()) for width in widths)
        self._mean_width = total / sum(width.numel() for width in widths)

    @torch.no_grad()
    def before_step(self, context: StepContext) -> None:
        """Keeps the weights that the step starts from."""
        if self.relative:
            weights = linear_weights(context.model)
            self._last = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def after_step(self, result: StepResult) -> None:
        """Puts every weight back into its bin."""
        for name, weight in linear_weights(result.model).items():
            low, high = self._bounds[name]
            if self.relative and self._mean_width > 0:
                last = self._last[name]
                weight.copy_(last + (weight - last) * ((high - low) / self._mean_width))
            weight.clamp_(low, high)


def bin_bounds(weight: Tensor, grid: Grid, margin: float) -> tuple[Tensor, Tensor]:
    """The bin of every weight, as long as the largest magnitude of its group stays.

    Rounding never decreases, so everything between a weight and the inside of its bin has the weight's own code, even
    if the weight itself is on an edge.

    Args:
        weight: ``[out, in]``, floating point.
        grid: The quantizer.
        margin: Share of a bin's width that is kept clear at each edge, so that rounding in another precision does not
            carry a weight over it. A weight that starts inside the margin may only move away from the edge.

    Returns:
        Lowest and highest allowed value, of the weight's shape, dtype and device. They are equal for every weight
        whose magnitude is the largest of its group, which decides the scale.

    Raises:
        RequestError: The grid's groups do not divide a row.
    """
    placed = on_grid(weight, grid)
    values = in_groups(weight.detach().double(), grid)
    largest = values.abs().amax(dim=1, keepdim=True)
    scales, codes = placed.scales.double(), placed.codes.long()

    levels = torch.tensor(grid.levels, dtype=torch.float64, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    # A value beyond the largest magnitude would change the scale.
    ends = levels.new_tensor([torch.inf])
    low_edge = (torch.cat([-ends, middles])[codes] * scales).nan_to_num().clamp(-largest, largest)
    high_edge = (torch.cat([middles, ends])[codes] * scales).nan_to_num().clamp(-largest, largest)
    clear = margin * (high_edge - low_edge)
    # A grid that casts first may carry a weight by half a digit of that type.
    cast = torch.finfo(grid.source).eps / 2 if grid.source is not None else 0.0
    low = torch.minimum(low_edge + clear + cast * low_edge.abs(), values)
    high = torch.maximum(high_edge - clear - cast * high_edge.abs(), values)

    # The weight's own type may be coarser than a bin: its rounding must not widen the bounds.
    digit = torch.finfo(weight.dtype).eps
    low = torch.minimum((low + digit * low.abs()).to(weight.dtype).double(), values)
    high = torch.maximum((high - digit * high.abs()).to(weight.dtype).double(), values)
    fixed = values.abs() == largest
    low = torch.where(fixed, values, low)
    high = torch.where(fixed, values, high)
    return placed.restore(low).to(weight.dtype), placed.restore(high).to(weight.dtype)
