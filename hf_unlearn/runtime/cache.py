"""Where the package keeps models that it made once and can make again, and whether they are still what was made.

``<kind>/<key>`` in the cache is a folder, ``lists/<key>.json`` the digests of its files as they were written,
``lists/<key>.seconds`` how long it took, and ``locks/<key>`` is held by who makes it.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from ..errors import EnvironmentFailure
from ..verification.digests import hash_files
from .files import files_within, write_atomically


def cache_dir() -> Path:
    """``$HF_UNLEARN_CACHE``, or ``~/.cache/hf_unlearn``."""
    return Path(os.environ.get("HF_UNLEARN_CACHE") or Path.home() / ".cache" / "hf_unlearn")


def list_of(folder: Path) -> Path:
    """The file with the digests of a kept folder."""
    return folder.parent.parent / "lists" / f"{folder.name}.json"


def lock_of(folder: Path) -> Path:
    """The file that is locked while a kept folder is made."""
    return folder.parent.parent / "locks" / folder.name


def write_list(folder: Path) -> None:
    """Note the digests of a kept folder as it is now."""
    write_atomically(list_of(folder), json.dumps(_digests(folder), indent=1, sort_keys=True))


def write_seconds(folder: Path, seconds: float) -> None:
    """Note how long a kept folder took to make."""
    write_atomically(list_of(folder).with_suffix(".seconds"), f"{seconds:.1f}")


def seconds_of(folder: Path) -> float | None:
    """How long a kept folder took to make; ``None`` where that was not noted."""
    try:
        seconds = float(list_of(folder).with_suffix(".seconds").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def is_as_listed(folder: Path) -> bool:
    """Whether a kept folder is there, and every file of it is what was written.

    Raises:
        EnvironmentFailure: A file cannot be read.
    """
    try:
        listed = json.loads(list_of(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return folder.is_dir() and bool(listed == _digests(folder))


def make_places(folder: Path) -> None:
    """Make the folders that a kept folder, its list and its lock are in.

    Raises:
        EnvironmentFailure: A file is in the way.
    """
    for place in (folder.parent, lock_of(folder).parent):
        try:
            place.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise EnvironmentFailure(
                f"{place} cannot be made, because a file is in the way: set HF_UNLEARN_CACHE to a folder"
            ) from None


def _digests(folder: Path) -> dict[str, str]:
    return hash_files(folder, files_within(folder))
