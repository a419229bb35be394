"""What a run finds on disk and leaves there: the checkpoint it resumes from, and one whole, plain model at its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_NAME

from .._compat import PREFIX_CHECKPOINT_DIR, TRAINER_STATE_NAME, get_last_checkpoint
from ..errors import RequestError
from ..models.adapters import merge_into
from ..models.sharding import alone

ADAPTERS_FOLDER = "adapters"
"""In a trainer's output folder: adapters that are about to be merged into their base."""


def chosen_checkpoint(given: str | bool | None, output_dir: str | None) -> Path | None:
    """The checkpoint that ``resume_from_checkpoint`` means.

    Args:
        given: A folder, ``True`` for the last one, or nothing.
        output_dir: Where the trainer keeps its checkpoints.

    Returns:
        ``None`` if there is none, or none is meant.
    """
    folder = get_last_checkpoint(str(output_dir)) if given is True else given
    return Path(folder) if folder else None


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; unfinished ones are deleted.

    The trainer writes its state last, so a checkpoint whose state can be read is complete.

    Args:
        folder: The output folder of a trainer; need not exist.
    """
    whole: list[tuple[int, Path]] = []
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = checkpoint.name.rpartition("-")[2]
        if step.isdigit() and _is_whole(checkpoint):
            whole.append((int(step), checkpoint))
        else:
            shutil.rmtree(checkpoint)
    return max(whole)[1] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def torch_dtype(name: str) -> torch.dtype:
    """The precision to save in.

    Raises:
        RequestError: There is no precision of that name.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise RequestError(f"the model cannot be saved in {name!r}: use float32, bfloat16 or float16")
    return dtype


def is_quantized(model: nn.Module) -> bool:
    """Whether a model, or the base of its adapters, was loaded in a quantized format."""
    base: Any = model
    inner = base.get_base_model() if hasattr(base, "get_base_model") else base
    return any(getattr(each, "hf_quantizer", None) is not None for each in (base, inner))


def merge_saved(adapters: Path, base: str, output_dir: Path, dtype: str | None) -> None:
    """Merge saved adapters into a freshly loaded base, in one process; the adapters' folder is deleted.

    Args:
        adapters: Their folder.
        base: The model they belong to: an id or a folder.
        output_dir: Gets the merged model.
        dtype: Precision to save in; by default that of the base.

    Raises:
        RequestError: The base cannot be read again.
    """
    with alone():
        merge_into(base, adapters, output_dir, dtype)
    shutil.rmtree(adapters)


def save_gathered(
    whole: dict[str, Tensor] | None,
    output_dir: Path,
    dtype: str | None,
    save: Callable[[str, dict[str, Tensor] | None], None],
    writes: bool,
) -> None:
    """Save weights that were gathered from several processes. Every process has to call this.

    Args:
        whole: The weights; some processes may have none.
        output_dir: Where to.
        dtype: Precision to save in; by default that of the weights.
        save: Writes a model with these weights into a folder.
        writes: Whether this process is the one that writes files.
    """
    if dtype is None:
        save(str(output_dir), whole)
        return
    kind = torch_dtype(dtype)
    save(
        str(output_dir),
        {name: each.to(kind) if each.is_floating_point() else each for name, each in (whole or {}).items()},
    )
    if writes:
        # save_pretrained wrote the precision of the model in memory.
        file = output_dir / CONFIG_NAME
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**config, "dtype": dtype}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
