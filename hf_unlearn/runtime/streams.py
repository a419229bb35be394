"""Standard input, output and error: some are closed from the start, and some cannot be written any more."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

CLOSED = "the output was closed"
"""Its reader went away, as with `| head`."""

_failures: list[Exception] = []


def open_standard_streams() -> bool:
    """Give closed streams a place, so that the next file that is opened does not get their number and their lines.

    Returns:
        Whether standard output was closed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
    return closed


@contextlib.contextmanager
def watched_output() -> Iterator[None]:
    """Remember a failure to write standard output, which libraries may swallow or take for a full disk."""
    _failures.clear()
    stream: Any = sys.stdout
    write = stream.write

    def watched(text: str) -> int:
        try:
            return int(write(text))
        except (OSError, ValueError) as error:
            _failures.append(error)
            raise

    stream.write = watched
    try:
        yield
    finally:
        stream.write = write


def lost_output() -> str | None:
    """How standard output was lost, in a few words, or ``None`` if it was not. What is still in it is then dropped."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _failures.append(error)
    if not _failures:
        return None
    # Python would try once more at its end, and complain.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    first = _failures[0]
    if isinstance(first, BrokenPipeError):
        return CLOSED
    return f"standard output cannot be written ({getattr(first, 'strerror', None) or first})"
