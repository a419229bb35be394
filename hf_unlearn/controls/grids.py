"""The grids that block-wise quantizers round to, as far as a control needs to know them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MissingExtraError


@dataclass(frozen=True)
class Grid:
    """A block-wise quantizer: each block is divided by its largest magnitude, then rounded to the nearest level.

    Attributes:
        name: As users write it.
        levels: ``[L]``, ascending, between -1 and 1.
        block_size: Weights that share a scale, consecutive in the flattened (row-major) matrix.
    """

    name: str
    levels: Tensor
    block_size: int


def nf4() -> Grid:
    """The NF4 grid of bitsandbytes (arXiv 2305.14314), with its default block of 64 and its own code book.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.functional import get_4bit_type
    except ImportError as error:
        raise MissingExtraError("the grid nf4", "bitsandbytes", "quantization") from error
    return Grid("nf4", get_4bit_type("nf4", device="cpu").to(torch.float32), block_size=64)


GRIDS: dict[str, Callable[[], Grid]] = {"nf4": nf4}


def bin_bounds(weight: Tensor, grid: Grid, margin: float) -> tuple[Tensor, Tensor]:
    """How far each weight may move without changing what the grid rounds it to, if its block's maximum stays.

    Args:
        weight: Any shape, floating point.
        grid: The quantizer.
        margin: Share of a bin's width that is kept clear at each edge, so that rounding in another precision does not
            carry a weight over it. A weight that starts inside the margin may only move away from the edge.

    Returns:
        Lowest and highest allowed value, of the weight's shape, dtype and device. They are equal for every weight
        whose magnitude is its block's maximum.
    """
    flat = weight.detach().reshape(-1).to(torch.float64)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % grid.block_size)).view(-1, grid.block_size)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    scale = largest.clamp(min=torch.finfo(torch.float32).tiny)

    levels = grid.levels.to(device=weight.device, dtype=torch.float64)
    middles = (levels[1:] + levels[:-1]) / 2
    edges = torch.cat([levels[:1], middles, levels[-1:]])
    code = torch.bucketize(blocks / scale, middles)
    clear = margin * (edges[code + 1] - edges[code])
    low = torch.minimum((edges[code] + clear) * scale, blocks)
    high = torch.maximum((edges[code + 1] - clear) * scale, blocks)

    fixed = blocks.abs() == largest
    low = torch.where(fixed, blocks, low)
    high = torch.where(fixed, blocks, high)
    return _restore(low, weight), _restore(high, weight)


def _restore(blocks: Tensor, like: Tensor) -> Tensor:
    return blocks.reshape(-1)[: like.numel()].view(like.shape).to(like.dtype)
