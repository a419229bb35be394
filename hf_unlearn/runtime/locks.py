"""Who does which job when several processes share a folder: the one that is first. Also for machines that share it.

A lock is a lease (:mod:`~hf_unlearn.runtime.leases`): free again as soon as its holder has ended, or, for a holder on
another machine, when that has shown no sign of life for two minutes. No coordinator is needed, and no process waits in
a collective.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RequestError
from .leases import Lease, clear, held_in, holder, is_alive, probe, take

LOCKS = ".locks"
"""Folder, in that of a run, with the locks of the run and of its units: all in one, or a file server might show a new
one late."""

_RUN = "run"
_PAUSE = 0.3


@contextmanager
def locked(file: Path, *, before_waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold a lock for the block.

    Args:
        file: Name of the lock, in a folder that is there. Files whose names begin with it are made, and one stays.
        before_waiting: Called once if another process holds the lock; then this one waits. Without it, nobody waits.

    Yields:
        Whether this process holds the lock.

    Raises:
        OSError: The lock cannot be made.
    """
    lease = take(file)
    if lease is None and before_waiting is not None:
        before_waiting()
        while (lease := take(file)) is None:
            time.sleep(_PAUSE)
    try:
        yield lease is not None
    finally:
        if lease is not None:
            lease.give_back()


def claim_file(folder: Path, unit: Path) -> Path:
    """The lock that is the claim on a unit of a run.

    Args:
        folder: The run's folder.
        unit: Where the unit is when it is finished.
    """
    name = hashlib.sha256(unit.relative_to(folder).as_posix().encode()).hexdigest()[:24]
    return folder / LOCKS / name


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Whether the claim is this process's for the block; never waits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file) as mine:
        yield mine


def clear_claims(folder: Path) -> None:
    """Delete the claims in a run's folder that nobody holds any more. The caller has the run's lock."""
    clear(folder / LOCKS)


@contextmanager
def run_lock(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Have the folder of a run to oneself.

    Args:
        folder: The run's folder, which is there.
        say: Told if a process on another machine has to be waited for.

    Raises:
        RequestError: Another run, or a command for one unit of it, is at work there.
        EnvironmentFailure: The file system has no working locks.
    """
    file = _own_place(folder)
    lease = _won(file, say)
    if lease is None:
        raise RequestError(
            f"another run is using {folder}{_held_by(file)}: wait for it, or choose another --output-dir"
        )
    try:
        for claim in held_in(file.parent):
            if claim != file and _is_at_work(claim, say):
                raise RequestError(
                    f"a command for one unit of the run is at work in {folder}{_held_by(claim)}: wait for it, then "
                    "run the same command again"
                )
        yield
    finally:
        lease.give_back()


def is_run_locked(folder: Path) -> bool:
    """Whether a run has a folder to itself."""
    return holder(folder / LOCKS / _RUN) is not None


@contextmanager
def unit_lock(folder: Path, unit: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Have one unit of a run to oneself, while others work on other units.

    Args:
        folder: The run's folder, which is there.
        unit: Where the unit is when it is finished.
        say: Told if a process on another machine has to be waited for.

    Raises:
        RequestError: Another process is making the unit, or a whole run is at work in the folder.
        EnvironmentFailure: The file system has no working locks.
    """
    own, file = _own_place(folder), claim_file(folder, unit)
    lease = _won(file, say)
    if lease is None:
        raise RequestError(f"{unit} is being made{_held_by(file, 'by')}: leave it to that process, or wait for it")
    try:
        # Only now, and the run looks for units only after it has its lock: one of two sees the other.
        if _is_at_work(own, say):
            raise RequestError(
                f"a run is using {folder}{_held_by(own)}: wait for it, it makes all units that are left"
            )
        yield
    finally:
        lease.give_back()


@contextmanager
def books_lock(folder: Path) -> Iterator[None]:
    """Have the books of a run to oneself for a moment; commands for single units wait for each other."""
    with locked(folder / LOCKS / "books", before_waiting=lambda: None):
        yield


def _own_place(folder: Path) -> Path:
    place = folder / LOCKS
    place.mkdir(parents=True, exist_ok=True)
    probe(place)
    return place / _RUN


def _won(file: Path, say: Callable[[str], None]) -> Lease | None:
    lease = take(file)
    return take(file) if lease is None and not _is_at_work(file, say) else lease


def _is_at_work(file: Path, say: Callable[[str], None]) -> bool:
    found = holder(file)
    if found is not None and found.is_elsewhere:
        say(f"{file} is held by {found}: looking whether it is still alive")
    return is_alive(file)


def _held_by(file: Path, how: str = "") -> str:
    found = holder(file)
    if found is None:
        return ""
    return f" {how} {found}" if how else f" ({found})"
