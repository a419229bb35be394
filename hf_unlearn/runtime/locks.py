"""Who does which job, where several processes share a folder: whoever locks a job's claim first.

A lock is given back by the system when its holder ends, however that happens, so that a job of a process that was
killed is free again. Nobody has to be asked, and nobody waits in a collective.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLAIMS = ".claims"


def claim_file(folder: Path, unit: Path) -> Path:
    """The file whose lock is the claim on a unit of a run.

    Args:
        folder: The run's folder.
        unit: Where the unit stands when it is finished.
    """
    name = hashlib.sha256(unit.relative_to(folder).as_posix().encode()).hexdigest()[:24]
    return folder / CLAIMS / name


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Whether the claim is this process's for the block; never waits."""
    import fcntl

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            yield False
            return
        yield True
