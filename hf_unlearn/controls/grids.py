"""How far a weight may move without changing what a quantizer makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantization.grids import Grid, in_groups, on_grid


def bin_bounds(weight: Tensor, grid: Grid, margin: float) -> tuple[Tensor, Tensor]:
    """The bin of every weight, as long as the largest magnitude of its group stays.

    Rounding never decreases, so everything between a weight and the inside of its bin has the weight's own code, also
    where the weight itself lies on an edge.

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
    # What lies outside the largest magnitude would change the scale, whatever the grid has there.
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
