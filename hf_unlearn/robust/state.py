"""Tensors that a part keeps with a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import RequestError


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors by name; a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, partial)
    partial.replace(path)


def load_tensors(path: Path, part: str) -> dict[str, Tensor]:
    """Reads what :func:`save_tensors` wrote, on the CPU.

    Args:
        path: The file.
        part: Whose it is, for the message.

    Raises:
        RequestError: There is no such file, or it is damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RequestError(
            f"{part}: {path} is missing or damaged, so this run cannot go on from its checkpoint: delete the"
            " checkpoints next to it and start this training anew"
        ) from error
