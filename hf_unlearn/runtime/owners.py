"""Which process holds something that several machines see, and whether it is known to have ended."""

from __future__ import annotations

import functools
import json
import os
import platform
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process on a machine.

    Attributes:
        host: Name of the machine, for messages.
        machine: Tells machines apart, and containers that do not see each other's processes.
        pid: Number of the process there.
        started: When it was started, as the system counts; a later process with the same number has another value.
            Empty where the system does not say.
    """

    host: str
    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether this process could see the owner."""
        return self.machine == _machine()

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to have ended; never known of another machine."""
        if not self.is_here:
            return False
        now = started(self.pid)
        return now is None or ("" not in (now, self.started) and now != self.started)

    def to_json(self) -> str:
        """One JSON line."""
        return json.dumps(asdict(self)) + "\n"


def this_process() -> Owner:
    """This process."""
    return Owner(platform.node() or "this machine", _machine(), os.getpid(), started(os.getpid()) or "")


def read_owner(text: str) -> Owner | None:
    """Inverse of :meth:`Owner.to_json`; ``None`` for a text that is no whole line of it."""
    try:
        return Owner(**json.loads(text)) if text.endswith("\n") else None
    except (ValueError, TypeError):
        return None


def started(pid: int) -> str | None:
    """When a process was started, as the system counts; ``None`` if there is none, or only its remains.

    Empty where it is there, and the system does not say more of somebody else's.
    """
    if Path("/proc/self/stat").exists():
        try:
            # The name, in parentheses, may hold spaces: what follows is the state and, 19 words later, the time.
            words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return "" if _is_there(pid) else None  # some systems hide the processes of others
        return None if words[0] in "ZX" else words[19]
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:  # it is there, and somebody else's
        return ""


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _machine() -> str:
    """A machine since it was started, and in it the space in which process numbers mean something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{uuid.getnode():x}"
