"""Standard input, output and error: some are closed from the start, and some cannot be written any more."""

from __future__ import annotations

import os
import sys


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


def lost_output() -> str | None:
    """How standard output was lost, in a few words, or ``None`` if it was not. What is still in it is then dropped."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        # Python would try once more at its end, and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):  # as with `| head`
            return "the output was closed"
        return f"standard output cannot be written ({getattr(error, 'strerror', None) or error})"
    return None
