"""Models that were built from the data of a run, kept by what decides them, for the next run with the same.

They are in ``scratch`` in the cache (:mod:`~hf_unlearn.runtime.cache`). At each use their files are compared with what
was built, and a model that is not that is built again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from ..data.encoding import TextFormat
from ..data.example import Example
from ..models.scratch import ScratchSpec, scratch_cache_key, scratch_tokenizer, train_scratch_model
from ..runtime.cache import cache_dir, is_as_listed, list_of, lock_of, make_places, write_list, write_seconds
from ..runtime.files import remove, whole_folder
from ..runtime.locks import locked

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
    if list_of(folder).exists():
        return is_as_listed(folder)
    if not _can_be_read(folder):
        return False
    with contextlib.suppress(OSError):  # a cache that others fill may be read-only
        write_list(folder)
    return True


def build_scratch(
    spec: ScratchSpec, rows: Sequence[Example], texts: Sequence[str], text_format: TextFormat, folder: Path, title: str
) -> None:
    """Build a small model in a folder, in place of what is there."""
    with whole_folder(folder) as work:
        tokenizer = scratch_tokenizer(texts, spec)
        train_scratch_model(spec, rows, tokenizer, text_format, work, progress=title)


def build_in_cache(
    spec: ScratchSpec, rows: Sequence[Example], texts: Sequence[str], text_format: TextFormat, folder: Path, title: str
) -> None:
    """Build a small model in the cache, unless it is there. Of two runs that need the same one, the second waits.

    Raises:
        EnvironmentFailure: The cache is no folder.
    """
    make_places(folder)
    with locked(lock_of(folder), before_waiting=lambda: None):
        if is_as_built(folder):
            return
        remove(folder)
        list_of(folder).unlink(missing_ok=True)
        started = time.monotonic()
        build_scratch(spec, rows, texts, text_format, folder, title)
        write_list(folder)
        write_seconds(folder, time.monotonic() - started)


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
            lock = lock_of(left.with_name(key))
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
