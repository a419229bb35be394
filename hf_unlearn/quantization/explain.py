"""Why a format shows what it shows: an unlearned model's weights beside the target's, on each grid, layer by layer.

Tensors are read from the two folders one at a time; never are two whole models in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import RequestError
from . import FORMATS
from .compare import Comparison, compare_weights
from .grids import Grid, find_grid, grids, integer_grid

_LAYER = re.compile(r"\.(\d+)\.")
_INDEX = "model.safetensors.index.json"


class FolderTensors:
    """The tensors of a ``save_pretrained`` folder, each read when it is asked for.

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
    old, new = FolderTensors(before), FolderTensors(after)
    by_layer: dict[str, Comparison] = {}
    for name in quantized_names(before):
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
    """:func:`explain_folders`, with the reason where it cannot be done: an explanation is no ground to stop a run."""
    try:
        return explain_folders(before, after, names)
    except (RequestError, OSError, ValueError) as error:
        return {"reason": " ".join(str(error).replace(str(after), "the model").split())}


def quantized_names(folder: Path) -> list[str]:
    """Names of the weights that weight-only quantizers replace in the model of a folder, in the model's order."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    head = model.get_output_embeddings()
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def lost_when_saved(model: nn.Module, before: Path, dtype: str) -> dict[str, Any] | None:
    """How many updates of the trained weights a 16-bit checkpoint drops.

    Args:
        model: The trained model, in the precision it was stepped in, on any device.
        before: The folder it was trained from.
        dtype: Precision that it is about to be saved in.

    Returns:
        ``dtype``, the share of trained weights that ``moved`` and, of those, the share that is ``lost``: the saved
        number is the one that an untouched model would have. ``None`` where nothing is rounded or weights are sharded.
    """
    if dtype == "float32":
        return None
    kind: torch.dtype = getattr(torch, dtype)
    old = FolderTensors(before)
    weights = moved = lost = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name not in old:
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
