"""What a run finds on disk and leaves there: the checkpoint it resumes from, and one whole, plain model at its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_NAME, PreTrainedModel

from .._compat import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from ..errors import RequestError, first_line
from ..models.adapters import merge_into
from ..models.packed import stored_tensors
from ..models.sharding import alone
from ..runtime.files import files_within, remove, write_atomically
from ..verification.digests import hash_files

FILE_LIST = "files.json"
"""In a checkpoint: its files with their digests."""
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

    A checkpoint is whole if its list of files is there, which is written last, and every file is what the list says.

    Args:
        folder: The output folder of a trainer; need not exist.
    """
    whole: list[tuple[int, Path]] = []
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = checkpoint.name.rpartition("-")[2]
        if step.isdigit() and _is_whole(checkpoint):
            whole.append((int(step), checkpoint))
        else:
            remove(checkpoint)
    return max(whole)[1] if whole else None


def seal_checkpoint(checkpoint: Path) -> None:
    """Write the list of a checkpoint's files with their digests, when all of them are there."""
    write_atomically(checkpoint / FILE_LIST, json.dumps(_digests(checkpoint), indent=1, sort_keys=True))


def remove_old_checkpoints(folder: Path, keep: int | None, best: str | None) -> None:
    """Delete all checkpoints but the last ones, by renaming them first: none is ever there in part.

    Args:
        folder: The output folder of a trainer.
        keep: How many stay, at least the newest; all if ``None`` or 0.
        best: One that stays in any case, and counts.
    """
    if not keep or keep < 0:
        return
    by_step = sorted(
        (int(step), path)
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (step := path.name.rpartition("-")[2]).isdigit()
    )
    newest_first = [path for _, path in reversed(by_step)]
    kept = {path for path in newest_first if best is not None and path.resolve() == Path(best).resolve()}
    kept.update(newest_first[:1])
    for path in newest_first:
        if len(kept) < keep:
            kept.add(path)
        if path not in kept:
            remove(path)


def _is_whole(checkpoint: Path) -> bool:
    try:
        listed = json.loads((checkpoint / FILE_LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return bool(listed == _digests(checkpoint))


def _digests(checkpoint: Path) -> dict[str, str]:
    return hash_files(checkpoint, [name for name in files_within(checkpoint) if name != FILE_LIST])


def load_checkpoint(model: nn.Module, checkpoint: Path) -> bool:
    """Gives a whole model, or its one adapter, the weights of a checkpoint, bit for bit.

    Names in files are not always names of modules: some families rename, split or fuse weights when they are saved.
    So the checkpoint is read as any model is, and not by name.

    Args:
        model: What is trained; changed in place.
        checkpoint: Its folder.

    Returns:
        Whether this is a model that can be loaded so; others are left as they are.

    Raises:
        RequestError: A weight is missing, is one too many, or has another shape.
    """
    if isinstance(model, PreTrainedModel):
        _load_plain(model, checkpoint)
        return True
    adapters: Any = model
    if list(getattr(adapters, "peft_config", ())) == ["default"] and hasattr(adapters, "load_adapter"):
        _load_adapter(adapters, checkpoint)
        return True
    return False


def _load_plain(model: PreTrainedModel, checkpoint: Path) -> None:
    dtypes = {each.dtype for each in model.parameters() if each.is_floating_point()}
    # Where there are several, all go through float32, which holds each of them exactly.
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    try:
        read: Any = type(model).from_pretrained(
            checkpoint, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, TypeError) as error:
        raise _not_resumable(checkpoint, first_line(error)) from error
    saved, info = read
    refuse_other_weights(
        checkpoint, info["missing_keys"], info["unexpected_keys"], [name for name, *_ in info["mismatched_keys"]]
    )
    wanted, found = model.state_dict(), saved.state_dict()
    refuse_other_weights(checkpoint, wanted.keys() - found.keys(), found.keys() - wanted.keys(), ())
    model.load_state_dict(found)


def _load_adapter(model: Any, checkpoint: Path) -> None:
    from peft import get_peft_model_state_dict

    # peft itself says nothing of trained copies of modules (modules_to_save) that a file lacks.
    wanted, there = get_peft_model_state_dict(model).keys(), stored_tensors(checkpoint).keys()
    refuse_other_weights(checkpoint, wanted - there, there - wanted, ())
    try:
        found = model.load_adapter(str(checkpoint), "default", is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_resumable(checkpoint, first_line(error)) from error
    refuse_other_weights(checkpoint, found.missing_keys, found.unexpected_keys, ())


def refuse_other_weights(
    checkpoint: Path | str, missing: Iterable[str], unexpected: Iterable[str], reshaped: Iterable[str]
) -> None:
    """Weights that a checkpoint lacks would stay as they were before training, in silence.

    Raises:
        RequestError: There is any weight in one of the lists.
    """
    for names, what in ((missing, "lacks"), (unexpected, "has, beyond those of the model,"), (reshaped, "reshapes")):
        if found := sorted(names):
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise _not_resumable(checkpoint, f"it {what} the weight {found[0]}{more}")


def _not_resumable(checkpoint: Path | str, why: str) -> RequestError:
    return RequestError(
        f"training cannot go on from {checkpoint}: {why}. Delete that folder to go on from an earlier one or to start "
        "anew"
    )


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


def merge_saved(
    adapters: Path, base: str, output_dir: Path, dtype: str | None, trust_remote_code: bool = False
) -> None:
    """Merge saved adapters into a freshly loaded base, in one process; the adapters' folder is deleted.

    Args:
        adapters: Their folder.
        base: The model they belong to: an id or a folder.
        output_dir: Gets the merged model.
        dtype: Precision to save in; by default that of the base.
        trust_remote_code: Whether code that comes with the base may run.

    Raises:
        RequestError: The base cannot be read again.
    """
    with alone():
        merge_into(base, adapters, output_dir, dtype, trust_remote_code)
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
