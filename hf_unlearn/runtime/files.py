"""Files and folders that are written atomically: a reader sees the old content or the new, never half of it.

They are built next to their final place and renamed when complete. What a killed process leaves there is replaced by
the next one; what a failed one leaves is removed at once, because it would keep a full disk full.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_of(path: Path) -> Path:
    """Where a file or folder is built."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def whole_file(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """The place to write a file to; it is moved to ``path`` when the block ends, and removed if the block fails.

    Args:
        path: The file. Its folder is created if it is missing.
        partial: Another place next to it, for when several processes write the same file.
    """
    work = partial or partial_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work.unlink(missing_ok=True)
    try:
        yield work
        _sync(work)
        os.replace(work, path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of ``path`` when the block ends, and is removed if the block fails.

    Args:
        path: The folder.
        partial: Another place next to it.
    """
    work = partial or partial_of(path)
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    try:
        yield work
        replace_folder(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def replace_folder(built: Path, path: Path) -> None:
    """Put a complete folder in the place of an older one."""
    if path.exists():
        shutil.rmtree(path)
    os.replace(built, path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_synced(path: Path, text: str) -> None:
    """Write a text file, and return when it is on the disk: for files that are moved into place with their folder."""
    path.write_text(text, encoding="utf-8")
    _sync(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, which takes no room; copy it where the file system cannot do that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
