"""Files and folders that are written atomically: a reader sees the old content or the new, never half of it.

They are built next to their final place and renamed when complete. What a killed process leaves there is replaced by
the next one; what a failed one leaves is removed at once, because it would keep a full disk full.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_GONE = ".gone"


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
    _delete(work)
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
    _delete(work)
    work.mkdir(parents=True)
    try:
        yield work
        sync_folder(work)
        replace_folder(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def replace_folder(built: Path, path: Path) -> None:
    """Put a folder that is whole in the place of an older one.

    Between the two renames there is nothing under the name; at no moment is there half of either.
    """
    remove(path)
    os.replace(built, path)


def remove(path: Path) -> None:
    """Delete a folder with all that is in it, or a file: its name is gone at once, before the first file in it is.

    What a killed process leaves of it has a hidden name, is nobody's result, and goes with the next removal.
    """
    gone = path.with_name(f".{path.name}{_GONE}")
    _delete(gone)
    if os.path.lexists(path):
        os.replace(path, gone)
        _delete(gone)


def sweep(folder: Path) -> None:
    """Delete what killed processes left of things that they were deleting, in a folder and below it."""
    for left in list(folder.rglob(f".*{_GONE}")):
        _delete(left)


def files_within(folder: Path) -> list[str]:
    """All files of a folder and its sub-folders, those behind links to files too.

    Returns:
        Paths relative to the folder, with forward slashes, sorted. Nothing for a folder that is not there.

    Raises:
        OSError: A folder cannot be listed: what is in it must not be passed over.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for where, _, names in os.walk(folder, onerror=refuse) if folder.is_dir() else ():
        found += [path.relative_to(folder).as_posix() for name in names if (path := Path(where, name)).is_file()]
    return sorted(found)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


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


def open_private(path: Path) -> TextIO:
    """Open a text file for writing that only its owner can read: rows, answers and keys of hashes are in it."""
    file = open(path, "w", encoding="utf-8", opener=_private)  # noqa: SIM115 - the caller closes it
    make_private(path)  # one that was there before keeps its rights, and has no line yet
    return file


def make_private(path: Path) -> None:
    """Let only its owner read a file. Some file systems, such as those of memory cards, know no rights."""
    with contextlib.suppress(PermissionError):
        path.chmod(0o600)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str) -> None:
    """Write a text file atomically that only its owner can read."""
    with whole_file(path) as partial, open_private(partial) as file:
        file.write(text)


def sync_folder(folder: Path) -> None:
    """Return when all files of a folder are on the disk: a rename that is there before them would promise too much."""
    for name in files_within(folder):
        _sync(folder / name)


def _sync(path: Path) -> None:
    # Windows wants a file that is open for writing.
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
