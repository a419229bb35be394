"""Gaussian noise as large as the error of a grid: what a quantizer does, without its bins.

Quantizing brings knowledge back in two ways. Either unlearning moved weights within their bins, and the grid erases
the move (*bin erasure*), or the change is fragile, and any disturbance of that size undoes it (*fragility*). Noise
with the same root mean square error in every group disturbs as much and knows nothing of bins. What comes back on a
grid and not under its noise was erased by the bins.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from ..errors import RequestError
from ..models.loading import read_pretrained
from . import FORMATS
from .base import Written, body_layers
from .grids import Grid, find_grid, in_groups, on_grid
from .streaming import StreamedFormat, streamed_logits

NOISE_GRIDS = ("nf4", "fp4", "int8", "int4-g128", "int4-g32")
DRAWS = 3


class WeightNoise(StreamedFormat):
    """The source with noise on every weight that a quantizer would replace, in the source's own type.

    The same draw adds the same noise, but for its size, to every model of one shape, so that target, never-knew and
    unlearned model are disturbed alike.
    """

    bits = 16
    package = "transformers"
    tolerance = 1e-4
    published = False
    grid: ClassVar[str]
    draw: ClassVar[int]

    def check_model(self, model: PreTrainedModel) -> None:
        """Every linear layer must fall into whole groups of the grid."""
        grid = find_grid(self.grid)
        for name, layer in body_layers(model, self.name).items():
            if not grid.fits(layer.in_features):
                raise RequestError(
                    f"{self.name} needs input sizes in multiples of {grid.group_size}, but {name} has "
                    f"{layer.in_features}: use noise of a grid with a smaller group"
                )

    def write(self, source: Path, target: Path) -> Written:
        """Add the noise, save, and run what was saved in float32."""
        model = read_pretrained(source, "auto")
        layers = body_layers(model, self.name)
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.copy_(noisy(layer.weight, find_grid(self.grid), self.draw, name))
        model.save_pretrained(target)
        changed = sum(layer.weight.numel() for layer in layers.values())
        share = changed / sum(parameter.numel() for parameter in model.parameters())
        return Written(streamed_logits(model), quantized_share=share)


def noisy(weight: torch.Tensor, grid: Grid, draw: int, name: str) -> torch.Tensor:
    """A weight with Gaussian noise of the root mean square error that the grid makes in each group.

    Args:
        weight: ``[out, in]``.
        grid: Whose error the noise has.
        draw: Number of the draw.
        name: Of the weight; weights of different names get different noise.

    Returns:
        ``[out, in]`` in the type of ``weight``.
    """
    placed = on_grid(weight, grid, weight.dtype)
    error = placed.dequantized() - weight.float()
    size = in_groups(error, grid).square().mean(dim=1, keepdim=True).sqrt()
    seed = int.from_bytes(hashlib.sha256(f"{name}-{draw}".encode()).digest()[:7], "big")
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)).to(weight.device)
    return (weight.float() + placed.restore(in_groups(noise, grid) * size)).to(weight.dtype)


def _register(grid: str, draw: int) -> None:
    name = f"noise-{grid}-{draw}"
    summary = f"not a format: Gaussian weight noise as large as the error of {grid}, draw {draw}; never published"
    made = type(f"Noise{draw}", (WeightNoise,), {"name": name, "grid": grid, "draw": draw, "__doc__": summary})
    FORMATS.register(name, summary=summary, paper="this project (see docs/explanation.md)")(made)


for _grid in NOISE_GRIDS:
    for _draw in range(1, DRAWS + 1):
        _register(_grid, _draw)
