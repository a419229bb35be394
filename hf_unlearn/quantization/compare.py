"""What unlearning did to weights, as a quantizer sees it: how many have another code, and how far they moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .grids import Grid, on_grid

# Powers of two, because the distance of neighbouring bfloat16 numbers is one of these divided by 128.
LOWEST_EXPONENT, HIGHEST_EXPONENT = -12, 0
# Few enough that a matrix of a large model is never held several times over in float32.
CHUNK_WEIGHTS = 4_000_000


@dataclass(frozen=True)
class OnOneGrid:
    """Two versions of the same weights on one grid, as sums.

    Attributes:
        weights: Weights compared.
        changed: Of them, those with another code.
        steps: Sum of ``|update| / step``, the step being the width of the bin that the weight started in.
        groups: Groups that share a scale.
        rescaled: Of them, those with another scale.
    """

    weights: int = 0
    changed: int = 0
    steps: float = 0.0
    groups: int = 0
    rescaled: int = 0

    def __add__(self, other: OnOneGrid) -> OnOneGrid:
        return OnOneGrid(
            self.weights + other.weights,
            self.changed + other.changed,
            self.steps + other.steps,
            self.groups + other.groups,
            self.rescaled + other.rescaled,
        )

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the report."""
        return {
            "codes_changed": _share(self.changed, self.weights),
            "scales_changed": _share(self.rescaled, self.groups),
            "update_over_step": _share(self.steps, self.weights),
        }


@dataclass(frozen=True)
class Bucket:
    """Weights of similar magnitude, as sums: how many there are, how many moved, and how far all together."""

    weights: int = 0
    moved: int = 0
    update: float = 0.0

    def __add__(self, other: Bucket) -> Bucket:
        return Bucket(self.weights + other.weights, self.moved + other.moved, self.update + other.update)


@dataclass(frozen=True)
class Comparison:
    """Two versions of the same weights, as sums that can be added up over layers.

    Attributes:
        weights: Weights compared.
        moved: Of them, those that differ. One that is the other rounded to bfloat16, or to its own type, does not.
        lost: Of the moved ones, those that are the same again once both versions are rounded to bfloat16.
        update: Sum of ``|update|``.
        buckets: Exponent ``e`` to the weights that had a magnitude from ``2^(e-1)`` to ``2^e`` before; the first and
            the last bucket also hold what lies beyond.
        grids: By name of the grid.
    """

    weights: int = 0
    moved: int = 0
    lost: int = 0
    update: float = 0.0
    buckets: dict[int, Bucket] = field(default_factory=dict)
    grids: dict[str, OnOneGrid] = field(default_factory=dict)

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.weights + other.weights,
            self.moved + other.moved,
            self.lost + other.lost,
            self.update + other.update,
            _joined(self.buckets, other.buckets, Bucket()),
            _joined(self.grids, other.grids, OnOneGrid()),
        )

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the report, without the buckets."""
        return {
            "weights": self.weights,
            "moved": _share(self.moved, self.weights),
            "mean_update": _share(self.update, self.weights),
            "lost_in_bf16": _share(self.lost, self.moved),
            "grids": {name: grid.to_dict() for name, grid in self.grids.items()},
        }

    def magnitudes(self) -> list[dict[str, Any]]:
        """Moved weights by magnitude, smallest first, as in the report; empty buckets are left out."""
        return [
            {
                "from": None if exponent == LOWEST_EXPONENT else 2.0 ** (exponent - 1),
                "to": None if exponent == HIGHEST_EXPONENT else 2.0**exponent,
                "weights": _share(bucket.weights, self.weights),
                "moved": _share(bucket.moved, bucket.weights),
                "mean_update": _share(bucket.update, bucket.weights),
            }
            for exponent, bucket in sorted(self.buckets.items())
            if bucket.weights
        ]


def compare_weights(
    before: Tensor, after: Tensor, grids: Sequence[Grid], stored: torch.dtype = torch.float32
) -> Comparison:
    """Compare two versions of a weight.

    Args:
        before: ``[out, in]``, the target's.
        after: ``[out, in]``, the unlearned model's.
        grids: What to put them on; grids whose groups do not divide a row are left out.
        stored: Type of the checkpoint, in which some formats keep their scales.
    """
    fitting = [grid for grid in grids if grid.fits(before.shape[-1])]
    parts = (_compare(*pair, fitting, stored) for pair in _chunks(before, after))
    return reduce(Comparison.__add__, parts, Comparison())


def _chunks(before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    # Whole blocks of 64 rows: then no group of 64 weights lies in two chunks, even where groups run over row ends.
    rows = max(64, CHUNK_WEIGHTS // before.shape[-1] // 64 * 64)
    for start in range(0, before.shape[0], rows):
        yield before[start : start + rows], after[start : start + rows]


def _compare(before: Tensor, after: Tensor, grids: Sequence[Grid], stored: torch.dtype) -> Comparison:
    old, new = before.detach().float(), after.detach().float()
    moved = (new != old) & (new != old.to(torch.bfloat16).float()) & (new != old.to(after.dtype).float())
    update = torch.where(moved, (new - old).abs(), torch.zeros_like(old))
    lost = moved & (old.to(torch.bfloat16) == new.to(torch.bfloat16))
    return Comparison(
        weights=old.numel(),
        moved=int(moved.sum()),
        lost=int(lost.sum()),
        update=float(update.sum(dtype=torch.float64)),
        buckets=_buckets(old, moved, update),
        grids={grid.name: _on_one_grid(before, after, update, grid, stored) for grid in grids},
    )


def _buckets(old: Tensor, moved: Tensor, update: Tensor) -> dict[int, Bucket]:
    exponents = torch.frexp(old).exponent.clamp(LOWEST_EXPONENT, HIGHEST_EXPONENT)
    exponents = torch.where(old == 0, LOWEST_EXPONENT, exponents) - LOWEST_EXPONENT
    size = HIGHEST_EXPONENT - LOWEST_EXPONENT + 1
    index = exponents.reshape(-1).long()
    weights = torch.bincount(index, minlength=size).tolist()
    moves = torch.bincount(index[moved.reshape(-1)], minlength=size).tolist()
    sums = torch.bincount(index, update.reshape(-1).double(), minlength=size).tolist()
    return {
        place + LOWEST_EXPONENT: Bucket(*numbers)
        for place, numbers in enumerate(zip(weights, moves, sums, strict=True))
        if numbers[0]
    }


def _on_one_grid(before: Tensor, after: Tensor, update: Tensor, grid: Grid, stored: torch.dtype) -> OnOneGrid:
    old, new = on_grid(before, grid, stored), on_grid(after, grid, stored)
    steps = old.restore(old.steps())
    # A group of zeros has steps of zero; nothing can be said of it in steps.
    ratio = torch.where(steps > 0, update / steps, torch.zeros_like(update))
    return OnOneGrid(
        weights=before.numel(),
        changed=int((old.restore(old.codes) != new.restore(new.codes)).sum()),
        steps=float(ratio.sum(dtype=torch.float64)),
        groups=old.scales.numel(),
        rescaled=int((old.scales != new.scales).sum()),
    )


def _joined(first: dict[Any, Any], second: dict[Any, Any], empty: Any) -> dict[Any, Any]:
    names = [*first, *(name for name in second if name not in first)]
    return {name: first.get(name, empty) + second.get(name, empty) for name in names}


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
