"""Bytes that a run writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ..quantization import FORMATS
from .memory import Stored
from .shape import ModelShape

_SCALE_BYTES = 2
_OVERHEAD = 1.02
_SMALL = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template", "spiece", "config")


def model_bytes(shape: ModelShape, itemsize: int) -> int:
    """A saved model."""
    return round(shape.parameters * itemsize)


def variant_bytes(shape: ModelShape, format_name: str, itemsize: int) -> int:
    """A model in a format: matrices of the layers in its bits, each group with a scale; the rest as in the model."""
    kind = FORMATS.get(format_name).value
    if kind.bits >= 16:
        return model_bytes(shape, kind.bits // 8)
    quantized = shape.parameters - shape.ends
    scales = _SCALE_BYTES / kind.group_size if kind.group_size else 0.0
    return round(_OVERHEAD * (quantized * (kind.bits / 8 + scales) + shape.ends * itemsize))


def checkpoint_bytes(shape: ModelShape, stored: Stored, *, alone: bool) -> int:
    """A checkpoint: the model or its adapters, with the optimizer's states unless it is saved alone."""
    saved = shape.trained if shape.trained < shape.parameters / 2 else shape.parameters
    return round(saved * stored.trained + (0 if alone else stored.states * shape.trained))


def small_bytes(folder: Path) -> int:
    """The files of a model's folder that are copied beside its weights: tokenizer and configuration."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file() and file.name.startswith(_SMALL))


def free_bytes(folder: Path) -> int:
    """Free on the disk that a folder is on, or will be."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def written_bytes(folders: Iterable[Path]) -> int:
    """What lies in some folders already."""
    files = (file for folder in folders if folder.is_dir() for file in folder.rglob("*"))
    return sum(_blocks(file) for file in files if file.is_file() and not file.is_symlink())


def _blocks(file: Path) -> int:
    """What a file takes, which is whole blocks where the file system says so."""
    told = file.stat()
    return max(told.st_size, 512 * getattr(told, "st_blocks", 0))
