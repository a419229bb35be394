"""Which checkpoint a run goes on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .._compat import PREFIX_CHECKPOINT_DIR, TRAINER_STATE_NAME, get_last_checkpoint


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

    The trainer writes its state last, so that a checkpoint whose state can be read is whole.

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
