"""Leases: a file that says who holds something, for processes on one machine or on several that share a folder.

File systems that machines share give no lock that every mount honours (NFS mounted with ``nolock`` has none), but all
of them create a file for only one of those who ask for it. So the lease ``name`` is the files ``name.1``, ``name.2``
... in one folder: the highest number counts, and who creates the next one holds the lease. Nothing that counts is ever
deleted or renamed by somebody else, so a slow process cannot take away a lease that was given meanwhile.

A lease ends when

- its holder gives it back: the file is renamed to ``name.N.free``;
- its holder is a process of this machine that has ended, however that happened, or this very process, if it was
  interrupted before it could give it back;
- its holder, on another machine, has shown no sign of life for :data:`SECONDS`. The sign is the file's time, set anew
  every :data:`BEAT` seconds; all times are those of the file server, so the machines' clocks need not agree.

A holder that was out of touch for so long may have lost its lease: :func:`refuse_if_lost` is asked before a result is
put in place.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import EnvironmentFailure
from .owners import Owner, read_owner, this_process

BEAT = 10.0
"""Seconds between two signs of life."""

SECONDS = 120.0
"""Seconds without one after which a process of another machine counts as lost. Attributes of files may be a minute old
on NFS."""

_FREE = "free"
_CLOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        owner: The process; ``None`` if it has only begun to say so.
        seen: Time of its last sign of life, by the clock of the file server.
        silent: Seconds since then; 0 for a process of this machine, whose end is seen at once.
        left_here: Whether this very process made the file and was interrupted before it could give it back.
    """

    owner: Owner | None
    seen: float
    silent: float
    left_here: bool = False

    def __str__(self) -> str:
        who = str(self.owner or "a process")
        return f"{who}, last sign of life {max(0, round(self.silent))} s ago" if self.is_elsewhere else who

    @property
    def is_gone(self) -> bool:
        """Whether its lease has ended."""
        if self.left_here:
            return True
        if self.owner is not None and self.owner.is_here:
            return self.owner.has_ended
        return self.silent > SECONDS

    @property
    def is_elsewhere(self) -> bool:
        """Whether only its signs of life say that it is there."""
        return self.owner is None or not self.owner.is_here


class Lease:
    """A lease that this process holds until it gives it back.

    Attributes:
        file: Its name.
    """

    def __init__(self, file: Path, number: int) -> None:
        self.file = file
        self._number = number
        self._ended = threading.Event()
        _held.add(self)
        threading.Thread(target=self._beat, name=f"lease {file.name}", daemon=True).start()

    def give_back(self) -> None:
        """Let others have it."""
        self._ended.set()
        _held.discard(self)
        path = _path(self.file, self._number)
        with contextlib.suppress(FileNotFoundError):  # lost, or its folder was removed
            _rename(path, path.with_name(f"{path.name}.{_FREE}"))
        _made.pop(path, None)

    def is_of(self, file: Path, number: int) -> bool:
        """Whether this is the lease of a file."""
        return (self.file, self._number) == (file, number)

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has it, or its file is gone."""
        return _latest(self.file) != (self._number, False)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                os.utime(_path(self.file, self._number))
            except FileNotFoundError:
                return  # `refuse_if_lost` says so where it matters
            except OSError:
                continue  # a server that does not answer may do so again in time


_held: set[Lease] = set()
_made: dict[Path, tuple[int, int, int]] = {}
"""Files that this process made: its number, and device and inode of the file, as another may have the name by now."""
_making = threading.RLock()


def refuse_if_lost() -> None:
    """Make sure that this process still has every lease that it was given.

    Raises:
        EnvironmentFailure: Another process was given one of them.
    """
    for lease in list(_held):
        if lease.is_lost:
            found = holder(lease.file)
            by = f": {found} has it now" if found is not None else ""
            raise EnvironmentFailure(
                f"this process lost its lease {lease.file}{by}; it had shown no sign of life for {SECONDS:.0f} s, or "
                "the file was deleted: run the same command again"
            )


def take(file: Path) -> Lease | None:
    """The lease of this name, or ``None`` if another process has it. Never waits.

    Args:
        file: Name of the lease, in a folder that is there.

    Raises:
        OSError: Its files cannot be read or made.
    """
    number, free = _latest(file)
    if number and not free:
        found = _holder(file, number)
        if found is None:  # given back between the two looks
            number, free = _latest(file)
        if not free and (found is None or not found.is_gone):
            return None
    path = _path(file, number + 1)
    with _making:  # no thread of this process may take the file for one that was left behind
        return _made_lease(file, path, number)


def _made_lease(file: Path, path: Path, number: int) -> Lease | None:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return None
    _made[path] = (os.getpid(), *_identity(os.fstat(handle)))
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as writing:
            writing.write(this_process().to_json())
        if _latest(file) != (number + 1, False):  # what was seen first was out of date
            path.unlink(missing_ok=True)
            return None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    for older, name in _numbers(file):
        if older <= number:
            file.with_name(name).unlink(missing_ok=True)
    return Lease(file, number + 1)


def holder(file: Path) -> Holder | None:
    """Who holds a lease; ``None`` if it is free."""
    number, free = _latest(file)
    found = None if free or not number else _holder(file, number)
    return None if found is None or found.is_gone else found


def is_alive(file: Path) -> bool:
    """Whether somebody holds a lease who is alive.

    A process of this machine is seen at once. One of another machine is waited for until it gives its next sign of
    life, or for :data:`SECONDS` after its last one.
    """
    first = found = holder(file)
    while first is not None and found is not None:
        if not found.is_elsewhere or found.seen != first.seen:
            return True
        time.sleep(min(1.0, BEAT / 4))
        found = holder(file)
    return False


def held_in(folder: Path) -> list[Path]:
    """Names of the leases in a folder that somebody holds."""
    names = {file for file, _, free in _all_in(folder) if not free}
    return sorted(file for file in names if holder(file) is not None)


def clear(folder: Path) -> None:
    """Delete what is left of leases in a folder that nobody holds.

    Nobody may be about to take one of them: the caller has the only lease that others ask for first.
    """
    for file, name, _ in list(_all_in(folder)):
        if holder(file) is None:
            (folder / name).unlink(missing_ok=True)


def _rename(path: Path, to: Path) -> None:
    for _ in range(50):
        try:
            path.rename(to)
            return
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(0.1)  # Windows renames no file that somebody is reading
    path.rename(to)


def _path(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name}.{number}")


def _latest(file: Path) -> tuple[int, bool]:
    """The highest number of a lease and whether that one was given back; 0 if it was never held."""
    found = [(number, name.endswith(f".{_FREE}")) for number, name in _numbers(file)]
    return max(found, default=(0, True))


def _numbers(file: Path) -> Iterator[tuple[int, str]]:
    yield from ((_number(name), name) for each, name, _ in _all_in(file.parent) if each.name == file.name)


def _all_in(folder: Path) -> Iterator[tuple[Path, str, bool]]:
    """Name of the lease, name of the file, and whether it was given back, for every such file in a folder."""
    for name in os.listdir(folder) if folder.is_dir() else ():  # there is none before the first lease
        stem = name.removesuffix(f".{_FREE}")
        base, dot, number = stem.rpartition(".")
        if dot and base and number.isdecimal():
            yield folder / base, name, stem != name


def _number(name: str) -> int:
    return int(name.removesuffix(f".{_FREE}").rpartition(".")[2])


def _holder(file: Path, number: int) -> Holder | None:
    """Who wrote one of the files; ``None`` if it is gone: it was given back a moment ago, or is out of date."""
    try:
        # On NFS only opening a file asks the server for its attributes.
        with _path(file, number).open(encoding="utf-8") as reading:
            found, text = os.fstat(reading.fileno()), reading.read()
    except FileNotFoundError:
        return None
    if _is_left_here(file, number, found):
        return Holder(this_process(), found.st_mtime, 0.0, left_here=True)
    owner = read_owner(text)
    here = owner is not None and owner.is_here
    return Holder(owner, found.st_mtime, 0.0 if here else server_time(file.parent) - found.st_mtime)


def _is_left_here(file: Path, number: int, found: os.stat_result) -> bool:
    """Whether this process made the file and no longer holds the lease: it was interrupted, and lives on."""
    with _making:
        mine = _made.get(_path(file, number)) == (os.getpid(), *_identity(found))
        return mine and not any(lease.is_of(file, number) for lease in list(_held))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


_clocks: dict[Path, tuple[float, float]] = {}


def server_time(folder: Path) -> float:
    """The time by the clock that gives files in a folder their times, in seconds since 1970."""
    now = time.monotonic()
    measured, ahead = _clocks.get(folder, (None, 0.0))
    if measured is None or now - measured > _CLOCK_SECONDS:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            ahead = os.fstat(file.fileno()).st_mtime - now
        _clocks[folder] = (now, ahead)
    return time.monotonic() + ahead


def probe(folder: Path) -> None:
    """Make sure that leases hold in a folder.

    Raises:
        EnvironmentFailure: They do not on its file system.
        OSError: Nothing can be written there.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".probe-") as made:
        fault = _fault(Path(made))
    if fault:
        raise EnvironmentFailure(
            f"{folder} is on a file system without working locks ({fault}): choose an --output-dir on a local disk, "
            "or on a shared one where only one process can create a file (NFS 3 or later, Lustre, GPFS, CephFS)"
        )


def _fault(folder: Path) -> str | None:
    first, moved = folder / "a.1", folder / f"a.1.{_FREE}"
    os.close(os.open(first, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        os.close(os.open(first, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        pass
    else:
        return "a file was created a second time"
    os.utime(first, (0, 0))
    os.utime(first)
    with first.open() as reading:
        if abs(os.fstat(reading.fileno()).st_mtime - server_time(folder)) > SECONDS / 2:
            return "times of files are not kept"
    first.rename(moved)
    _clocks.pop(folder, None)
    return None if os.listdir(folder) == [moved.name] else "a renamed file is not seen under its new name"
