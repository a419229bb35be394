"""A machine that refuses to write: root is never refused, and no test may make the disk read-only."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@contextmanager
def refused_writes(number: int, *folders: Path) -> Iterator[None]:
    """Every new file, folder or link, every removal and every rename in these folders fails.

    Args:
        number: With which error, such as ``errno.EROFS``.
        folders: The folders; what is below them too.
    """

    def refuse(path: Any) -> None:
        if isinstance(path, (str, os.PathLike)) and any(Path(path).is_relative_to(folder) for folder in folders):
            raise OSError(number, os.strerror(number), str(path))

    def changing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*paths: Any, **keywords: Any) -> Any:
            for path in paths:
                refuse(path)
            return real(*paths, **keywords)

        return call

    def opening(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            if any(letter in mode for letter in "wax+"):
                refuse(file)
            return real(file, mode, *arguments, **keywords)

        return call

    def opening_low(real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
            if flags & _CHANGES:
                refuse(path)
            return real(path, flags, *arguments, **keywords)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "link", "symlink", "utime"):
            patched.setattr(os, name, changing(getattr(os, name)))
        patched.setattr(builtins, "open", opening(builtins.open))
        patched.setattr(io, "open", opening(io.open))
        patched.setattr(os, "open", opening_low(os.open))
        yield
