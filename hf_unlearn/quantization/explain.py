"""Why a format shows what it shows: an unlearned model's weights compared with the target's, as quantizers see them.

How many weights have another code on each grid, and how far they moved, layer by layer. Tensors are read from the two
folders one at a time; two whole models are never in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import RequestError
from ..models.decoder import linear_weights
from ..models.loading import empty_model, read_pretrained
from . import FORMATS
from .grids import Grid, find_grid, grids, integer_grid, on_grid

_LAYER = re.compile(r"\.(\d+)\.")
_INDEX = "model.safetensors.index.json"
# Powers of two, because the distance of neighbouring bfloat16 numbers is one of these divided by 128.
LOWEST_EXPONENT, HIGHEST_EXPONENT = -12, 0
# Few enough that a matrix of a large model is never held several times over in float32.
CHUNK_WEIGHTS = 4_000_000


class FolderTensors:
    """The tensors of a ``save_pretrained`` folder, each read when it is accessed.

    Args:
        folder: A folder with ``model.safetensors``, or with shards and their index.

    Raises:
        RequestError: There are no such files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / _INDEX
        if index.exists():
            self._file_of: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        elif (folder / "model.safetensors").exists():
            with safe_open(folder / "model.safetensors", "pt") as file:
                self._file_of = dict.fromkeys(file.keys(), "model.safetensors")
        else:
            raise RequestError(f"{folder} holds no safetensors files: save the model with save_pretrained")

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.folder / self._file_of[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def module_tensors(folder: Path, wanted: Iterable[str]) -> FolderTensors | Mapping[str, Tensor]:
    """The tensors of a folder by the names that they have in the model, which is not always how files name them.

    Args:
        folder: A ``save_pretrained`` folder.
        wanted: Names of the model's weights that will be asked for.

    Returns:
        Tensors that are read when they are asked for; for families whose files are converted when a model is read,
        those of the model, read whole.

    Raises:
        RequestError: The folder cannot be read.
    """
    from .._compat import get_model_conversion_mapping

    stored = FolderTensors(folder)
    converted = get_model_conversion_mapping(empty_model(folder), add_legacy=False)
    if not converted and all(name in stored for name in wanted):
        return stored
    return read_pretrained(folder, "auto").state_dict()


def grid_of(format_name: str) -> Grid | None:
    """The grid behind a format; ``None`` for formats that have none of their own (16 bits, calibrated, noise)."""
    for family in ("nf4", "fp4", "int8"):
        if format_name.startswith(f"bnb-{family}"):
            return find_grid(family)
    if not format_name.startswith("rtn-int"):
        return None
    value = FORMATS.get(format_name).value
    return integer_grid(value.bits, value.group_size)


def grids_of(formats: Iterable[str]) -> dict[str, str]:
    """Format to the name of its grid, those without a grid left out."""
    return {name: grid.name for name in formats if (grid := grid_of(name)) is not None}


def explain_folders(before: Path, after: Path, names: Sequence[str]) -> dict[str, Any]:
    """Compare two models' weights on some grids.

    Args:
        before: The target's folder.
        after: The unlearned model's folder.
        names: Names of grids.

    Returns:
        As in the report: numbers over all weights that quantizers replace (linear layers but the output head), the
        moved ones by magnitude, and the same numbers for every layer.

    Raises:
        RequestError: One folder cannot be read, or the models have no linear layer in common.
    """
    chosen = [_named(name) for name in names]
    wanted = quantized_names(before)
    old, new = module_tensors(before, wanted), module_tensors(after, wanted)
    by_layer: dict[str, Comparison] = {}
    for name in wanted:
        if name not in old or name not in new:
            continue
        first, second = old[name], new[name]
        if first.shape != second.shape:
            raise RequestError(f"{name} has another shape in {after.name} than in the target: they cannot be compared")
        found = compare_weights(first, second, chosen, _stored(second))
        layer = _layer_of(name)
        by_layer[layer] = by_layer.get(layer, Comparison()) + found
    if not by_layer:
        raise RequestError(f"{after} has no linear layer in common with the target: nothing can be compared")
    whole = reduce(Comparison.__add__, by_layer.values(), Comparison())
    return {
        **whole.to_dict(),
        "magnitudes": whole.magnitudes(),
        "layers": [{"layer": layer, **found.to_dict()} for layer, found in by_layer.items()],
    }


def explain_job(before: Path, after: Path, names: Sequence[str]) -> dict[str, Any]:
    """:func:`explain_folders`, with the reason if it cannot be done: a missing explanation must not stop a run."""
    try:
        return explain_folders(before, after, names)
    except (RequestError, OSError, ValueError) as error:
        return {"reason": " ".join(str(error).replace(str(after), "the model").split())}


def quantized_names(folder: Path) -> list[str]:
    """Names of the weights that weight-only quantizers replace in the model of a folder, in the model's order."""
    return list(linear_weights(empty_model(folder)))


def lost_when_saved(model: nn.Module, before: Path, dtype: str) -> dict[str, Any] | None:
    """How many updates of the trained weights a 16-bit checkpoint drops.

    Args:
        model: The trained model, in the precision of its training, on any device.
        before: The folder it was trained from.
        dtype: Precision that it is about to be saved in.

    Returns:
        ``dtype``, the share of trained weights that ``moved`` and, of those, the share that is ``lost``: the saved
        number is the one that an untouched model would have. ``None`` where nothing is rounded or weights are sharded.
    """
    if dtype == "float32":
        return None
    kind: torch.dtype = getattr(torch, dtype)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if hasattr(model, "peft_config"):
        return None  # its own weights are not those of any file
    old = module_tensors(before, trained)
    weights = moved = lost = 0
    for name, parameter in trained.items():
        if name not in old:
            continue
        now, then = parameter.detach().cpu(), old[name]
        if now.shape != then.shape:
            return None
        then = then.to(now.dtype)
        changed = now != then
        weights += changed.numel()
        moved += int(changed.sum())
        lost += int((changed & (now.to(kind) == then.to(kind))).sum())
    if not weights:
        return None
    return {"dtype": dtype, "moved": moved / weights, "lost": lost / moved if moved else None}


def _named(name: str) -> Grid:
    found = re.fullmatch(r"int(\d)-(?:g(\d+)|channel)", name)
    if name in grids() or found is None:
        return find_grid(name)
    return integer_grid(int(found[1]), int(found[2]) if found[2] else None)


def _layer_of(name: str) -> str:
    found = _LAYER.search(name)
    return found[1] if found else "other"


def _stored(weight: Tensor) -> torch.dtype:
    return weight.dtype if weight.dtype in (torch.bfloat16, torch.float16) else torch.float32


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
        """As it is in the report."""
        return {
            "codes_changed": _ratio(self.changed, self.weights),
            "scales_changed": _ratio(self.rescaled, self.groups),
            "update_over_step": _ratio(self.steps, self.weights),
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
        """As it is in the report, without the buckets."""
        return {
            "weights": self.weights,
            "moved": _ratio(self.moved, self.weights),
            "mean_update": _ratio(self.update, self.weights),
            "lost_in_bf16": _ratio(self.lost, self.moved),
            "grids": {name: grid.to_dict() for name, grid in self.grids.items()},
        }

    def magnitudes(self) -> list[dict[str, Any]]:
        """Moved weights by magnitude, smallest first, as in the report; empty buckets are left out."""
        return [
            {
                "from": None if exponent == LOWEST_EXPONENT else 2.0 ** (exponent - 1),
                "to": None if exponent == HIGHEST_EXPONENT else 2.0**exponent,
                "weights": _ratio(bucket.weights, self.weights),
                "moved": _ratio(bucket.moved, bucket.weights),
                "mean_update": _ratio(bucket.update, bucket.weights),
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
    # Whole blocks of 64 rows: then no group of 64 weights is in two chunks, even if groups run over row ends.
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


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
