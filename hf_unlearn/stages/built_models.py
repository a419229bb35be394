"""Small models that were built from the data of a run, kept by what decides them, for the next run with the same.

``scratch/<key>`` in the cache holds a model, ``lists/<key>.json`` the digests of its files as they were built. At each
use they are compared, and a model that is not what was built is built again. ``locks/<key>`` is held by who builds it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from ..data.encoding import TextFormat
from ..data.example import Example
from ..errors import EnvironmentFailure
from ..models.scratch import ScratchSpec, build_tokenizer, scratch_cache_key, train_scratch_model
from ..runtime.cache import cache_dir
from ..runtime.files import remove, whole_folder, write_atomically
from ..runtime.locks import locked
from .units import file_digests

_NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
_A_DAY = 86_400


def built_folder(spec: ScratchSpec, rows: Sequence[Example], texts: Sequence[str], text_format: TextFormat) -> Path:
    """Where the model of these settings, rows and tokenizer texts is, or will be."""
    return cache_dir() / "scratch" / scratch_cache_key(spec, rows, texts, text_format)[:32]


def is_as_built(folder: Path) -> bool:
    """Whether a model is there, and every file of it is what was built.

    A model of an earlier version, which kept no list, gets one if it can be read.

    Args:
        folder: From :func:`built_folder`.

    Raises:
        EnvironmentFailure: A file cannot be read, or the cache is no folder.
    """
    if not folder.is_dir():
        return False
    found = file_digests(folder)
    try:
        listed = json.loads(_list_of(folder).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not _can_be_read(folder):
            return False
        with contextlib.suppress(OSError):  # a cache that others fill may be read-only
            _write_list(folder, found)
        return True
    except (OSError, ValueError, RecursionError):
        return False
    return bool(listed == found)


def build_scratch(
    spec: ScratchSpec, rows: Sequence[Example], texts: Sequence[str], text_format: TextFormat, folder: Path, title: str
) -> None:
    """Build a small model in a folder, in place of what is there."""
    with whole_folder(folder) as work:
        tokenizer = build_tokenizer(texts, spec)
        train_scratch_model(spec, rows, tokenizer, text_format, work, progress=title)


def build_in_cache(
    spec: ScratchSpec, rows: Sequence[Example], texts: Sequence[str], text_format: TextFormat, folder: Path, title: str
) -> None:
    """Build a small model in the cache, unless it is there. Of two runs that need the same one, the second waits.

    Raises:
        EnvironmentFailure: The cache is no folder.
    """
    lock = _lock_of(folder)
    for place in (folder.parent, lock.parent):
        try:
            place.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise EnvironmentFailure(
                f"{place} cannot be made, because a file is in the way: set HF_UNLEARN_CACHE to a folder"
            ) from None
    with locked(lock, before_waiting=lambda: None):
        if is_as_built(folder):
            return
        remove(folder)
        _list_of(folder).unlink(missing_ok=True)
        build_scratch(spec, rows, texts, text_format, folder, title)
        _write_list(folder, file_digests(folder))


def remove_halves() -> None:
    """Delete what killed processes left of models that they were building, unless somebody is building them now."""
    with contextlib.suppress(OSError):  # it only takes room
        for left in (cache_dir() / "scratch").iterdir():
            key, dot, kind = left.name.lstrip(".").partition(".")
            if not dot or not left.is_dir():
                continue
            # Earlier versions built in folders with random names, and held no lock.
            if kind not in ("partial", "gone") and time.time() - left.stat().st_mtime < _A_DAY:
                continue
            lock = _lock_of(left.with_name(key))
            lock.parent.mkdir(exist_ok=True)
            with locked(lock) as mine:
                if mine:
                    remove(left)


def _can_be_read(folder: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with safe_open(folder / "model.safetensors", framework="pt"):
            return all((folder / name).is_file() for name in _NEEDED)
    except (OSError, ValueError, RecursionError, SafetensorError):
        return False


def _write_list(folder: Path, digests: dict[str, str]) -> None:
    write_atomically(_list_of(folder), json.dumps(digests, indent=1, sort_keys=True))


def _list_of(folder: Path) -> Path:
    return folder.parent.parent / "lists" / f"{folder.name}.json"


def _lock_of(folder: Path) -> Path:
    return folder.parent.parent / "locks" / folder.name
