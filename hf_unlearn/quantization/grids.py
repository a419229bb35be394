"""The grids that weight-only quantizers round to, as pure tensor code: codes, steps and rounded weights.

These are the same numbers that the libraries store, which a test compares; no library is needed here. A grid says
which weights share a scale and which multiples of it exist. Calibrated formats (GPTQ, AWQ) move weights before they
round and have no grid in this sense.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..errors import RequestError
from ..registry import suggest

# The 16 quantiles of NormalFloat (arXiv 2305.14314, appendix E), as bitsandbytes holds them in float32.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# Two exponent bits and one of significand, scaled to 1; plus and minus zero are one level.
_FP4 = (1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0)


@dataclass(frozen=True)
class Grid:
    """A quantizer without calibration: weights share a scale, and each goes to the nearest level times the scale.

    Attributes:
        name: As users write it.
        levels: All multiples of the scale that exist, ascending.
        reach: Largest magnitude of a group in units of its scale: ``scale = max|w| / reach``.
        group_size: Weights that share a scale; ``None`` for a whole output row.
        integer: Whether weights are divided by the scale and rounded (ties to even), not looked up among the levels.
        flat: Groups run on over the ends of rows, in row-major order (bitsandbytes 4-bit).
        source: Type the weights are cast to before anything else; ``None`` for none.
        stored_scale: Whether the scale is kept in the type of the checkpoint (else in float32).
    """

    name: str
    levels: tuple[float, ...]
    reach: float
    group_size: int | None
    integer: bool = False
    flat: bool = False
    source: torch.dtype | None = None
    stored_scale: bool = False

    def fits(self, in_features: int) -> bool:
        """Whether rows of this length fall into whole groups."""
        return self.flat or self.group_size is None or in_features % self.group_size == 0


@dataclass(frozen=True)
class OnGrid:
    """A weight on a grid, in groups: ``[groups, size]``, the last group of a flat grid padded with zeros.

    Attributes:
        weights: Float32 values before rounding (cast as the grid wants them).
        codes: Index into the grid's levels, ``int16``.
        scales: Float32 ``[groups, 1]``.
        shape: Of the weight.
        grid: The grid.
    """

    weights: Tensor
    codes: Tensor
    scales: Tensor
    shape: torch.Size
    grid: Grid

    def levels(self) -> Tensor:
        """The grid's levels as a float32 tensor."""
        return torch.tensor(self.grid.levels, dtype=torch.float32, device=self.weights.device)

    def dequantized(self) -> Tensor:
        """The rounded weights, of the original shape, in float32."""
        return self.restore(self.levels()[self.codes.long()] * self.scales)

    def steps(self) -> Tensor:
        """Width of the bin that each weight lies in, ``[groups, size]``. Outer bins end where the grid does."""
        levels = self.levels()
        edges = torch.cat([levels[:1], (levels[1:] + levels[:-1]) / 2, levels[-1:]])
        widths = edges[1:] - edges[:-1]
        if len(levels) > 2:  # an outer bin of a uniform grid is cut in half: the step is that of its neighbour
            widths[0], widths[-1] = levels[1] - levels[0], levels[-1] - levels[-2]
        return widths[self.codes.long()] * self.scales

    def restore(self, groups: Tensor) -> Tensor:
        """``[groups, size]`` back in the shape of the weight."""
        return groups.reshape(-1)[: self.shape.numel()].view(self.shape)


def in_groups(values: Tensor, grid: Grid) -> Tensor:
    """A ``[out, in]`` tensor as ``[groups, size]``.

    Raises:
        RequestError: Rows do not fall into whole groups.
    """
    if grid.flat:
        assert grid.group_size is not None
        flat = values.reshape(-1)
        return torch.nn.functional.pad(flat, (0, -flat.numel() % grid.group_size)).view(-1, grid.group_size)
    if not grid.fits(values.shape[-1]):
        raise RequestError(
            f"the grid {grid.name} has groups of {grid.group_size}, which do not divide a row of "
            f"{values.shape[-1]} weights"
        )
    return values.reshape(-1, grid.group_size or values.shape[-1])


def on_grid(weight: Tensor, grid: Grid, stored: torch.dtype = torch.float32) -> OnGrid:
    """Put a weight on a grid.

    Args:
        weight: ``[out, in]``, floating point, finite.
        grid: The grid.
        stored: Type of the checkpoint, in which some formats keep their scales.

    Raises:
        RequestError: Rows do not fall into whole groups.
    """
    cast = weight.detach() if grid.source is None else weight.detach().to(grid.source)
    groups = in_groups(cast.float(), grid)
    largest = groups.abs().amax(dim=1, keepdim=True)
    scales = largest / grid.reach
    if grid.stored_scale:
        scales = scales.to(stored)
        scales = torch.where(scales == 0, torch.finfo(stored).eps, scales).float()
    levels = torch.tensor(grid.levels, dtype=torch.float32, device=weight.device)
    if grid.integer:
        codes = _integer_codes(groups, largest, scales, grid)
    else:
        # As the libraries do it: a product with the reciprocal, and middles that belong to the lower level.
        scaled = (groups * (1.0 / largest.clamp(min=1e-38))).clamp(-1, 1)
        codes = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.int16)
    return OnGrid(groups, codes, scales, weight.shape, grid)


def _integer_codes(groups: Tensor, largest: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    if grid.source is not None:  # LLM.int8(): multiplied by 127 / max
        ratio = torch.where(largest > 0, grid.reach / largest, torch.zeros_like(largest))
        rounded = (groups * ratio).round()
    else:
        rounded = (groups / scales).round()
    lowest, highest = grid.levels[0], grid.levels[-1]
    return (rounded.clamp(lowest, highest) - lowest).to(torch.int16)


def integer_grid(bits: int, group_size: int | None) -> Grid:
    """Round-to-nearest integers from ``-2^(bits-1)`` to ``2^(bits-1) - 1`` with ``scale = 2 max|w| / (2^bits - 1)``.

    Args:
        bits: From 2 to 8.
        group_size: Weights along the input that share a scale; ``None`` for one scale per output row.
    """
    half = 2 ** (bits - 1)
    name = f"int{bits}-g{group_size}" if group_size else f"int{bits}-channel"
    return Grid(name, tuple(map(float, range(-half, half))), half - 0.5, group_size, integer=True, stored_scale=True)


def _four_bit(name: str, levels: tuple[float, ...]) -> Grid:
    return Grid(name, levels, 1.0, 64, flat=True)


@cache
def grids() -> dict[str, Grid]:
    """The grids that have a name, those of bitsandbytes first."""
    named = [
        _four_bit("nf4", _NF4),
        _four_bit("fp4", (*(-level for level in reversed(_FP4)), 0.0, *_FP4)),
        Grid("int8", tuple(map(float, range(-127, 128))), 127.0, None, integer=True, source=torch.float16),
    ]
    named += [integer_grid(4, group) for group in (128, 64, 32, None)]
    named += [integer_grid(bits, group) for bits in (3, 2) for group in (128, 64, 32, None)]
    named.append(integer_grid(8, None))
    return {grid.name: grid for grid in named}


def find_grid(name: str) -> Grid:
    """The grid called ``name``.

    Raises:
        RequestError: There is none; the message has the nearest.
    """
    if name not in grids():
        raise RequestError(f"there is no grid {name!r}: {suggest(name, list(grids()))}")
    return grids()[name]
