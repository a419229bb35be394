"""Who does which job when several processes share a folder: the process that locks a file first.

The system releases a lock when its holder ends, however that happens, so the job of a killed process is free
again. No coordinator is needed, and no process waits in a collective.

The locks are those of ``filelock``: ``flock`` on Linux and macOS, ``LockFileEx`` on Windows. On NFS, Linux passes
``flock`` on to the server, so it holds between machines if the server's lock service runs and the share is not mounted
with ``nolock`` or ``local_lock=flock``. A file system without ``flock`` is an error, not a weaker lock: files whose
mere existence is the lock would stay behind when their holder is killed on another machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

CLAIMS = ".claims"


@contextmanager
def locked(file: Path, *, before_waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock of a file for the block.

    Args:
        file: The file. It is created if it is missing, and it stays.
        before_waiting: Called once if another process holds the lock; then this one waits. Without it, nobody waits.

    Yields:
        Whether this process holds the lock.

    Raises:
        OSError: The file cannot be made, or its file system has no locks.
    """
    lock = FileLock(file, fallback_to_soft=False)
    mine = _taken_at_once(lock)
    if not mine and before_waiting is not None:
        before_waiting()
        lock.acquire()
        mine = True
    try:
        yield mine
    finally:
        if mine:
            lock.release()


def _taken_at_once(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def claim_file(folder: Path, unit: Path) -> Path:
    """The file whose lock is the claim on a unit of a run.

    Args:
        folder: The run's folder.
        unit: Where the unit is when it is finished.
    """
    name = hashlib.sha256(unit.relative_to(folder).as_posix().encode()).hexdigest()[:24]
    return folder / CLAIMS / name


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Whether the claim is this process's for the block; never waits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file) as mine:
        yield mine
