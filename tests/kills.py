"""A stand-in for ``kill -9`` at the n-th change that a function makes to files, without another process."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

EVENTS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "link", "symlink", "fsync", "chmod", "truncate")
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Killed(BaseException):
    """What stands for the kill: nothing catches it."""


class Process:
    """Counts the changes to files, and dies at one of them.

    Args:
        event: The number of the change that does not happen any more; ``None`` counts only.

    Attributes:
        kinds: What each change was: ``open``, ``write``, or the name of a function in ``os``.
        dead: Whether it was killed. A dead process changes nothing any more, in no ``finally`` and no ``except``.
    """

    def __init__(self, event: int | None) -> None:
        self.event = event
        self.kinds: list[str] = []
        self.dead = False

    def change(self, kind: str) -> None:
        """Something is about to change."""
        self.dead = self.dead or len(self.kinds) == self.event
        if self.dead:
            raise Killed
        self.kinds.append(kind)


@contextmanager
def killed_at(event: int | None) -> Iterator[Process]:
    """Kill what happens in the block at a change to files: a rename, a removal, a new folder, link or file, a write.

    A file that is opened for writing is two events: it is not there yet (or not cut), and it is there and empty, or
    holds the first half of what is written at once.

    Args:
        event: The number of the change, from 0; ``None`` kills nothing.
    """
    process = Process(event)

    def counted(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            process.change(kind)
            return real(*arguments, **keywords)

        return call

    def opened(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            changes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
            if not changes or file in (os.devnull, 1, 2):
                return real(file, mode, *arguments, **keywords)
            process.change("open")
            made = real(file, mode, *arguments, **keywords)
            write, written = made.write, False

            def write_half(data: Any) -> Any:
                nonlocal written
                if not written:
                    written = True
                    try:
                        process.change("write")
                    except Killed:
                        write(data[: len(data) // 2])
                        made.flush()
                        raise
                elif process.dead:
                    raise Killed
                return write(data)

            made.write = write_half
            return made

        return call

    def opened_low(real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
            if flags & _CHANGES and path != os.devnull:
                process.change("open")
            return real(path, flags, *arguments, **keywords)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name in EVENTS:
            patched.setattr(os, name, counted(name, getattr(os, name)))
        patched.setattr(builtins, "open", opened(builtins.open))
        patched.setattr(io, "open", opened(io.open))
        patched.setattr(os, "open", opened_low(os.open))
        yield process


def every_kill(run: Callable[[], object], check: Callable[[], None], *, step: int = 1) -> list[str]:
    """Run something, killed at its first change, at its second and so on, and at last not killed.

    Args:
        run: What is killed.
        check: What has to hold after each kill, and at the end. It leaves everything as it was before the first run.
        step: Take only every such change among writes and removals, which are many of a kind; renames are all taken.

    Returns:
        The kinds of all changes, see :class:`Process`.
    """
    with killed_at(None) as counted:
        run()
    check()
    kinds = counted.kinds
    near_rename = {
        place + shift for place, kind in enumerate(kinds) if kind in ("replace", "rename") for shift in (0, 1)
    }
    for event in sorted({*range(0, len(kinds), step), *near_rename} - {len(kinds)}):
        with killed_at(event), pytest.raises(Killed):
            run()
        check()
    return kinds
