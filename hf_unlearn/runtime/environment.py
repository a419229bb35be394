"""Failures of the environment, as distinct from mistakes in a request and from bugs: memory, disk, permissions.

Libraries report the same full disk in different ways: an ``OSError`` with its number, or an error of their own
that keeps only its text. Here they become one sentence.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import EnvironmentFailure, HfUnlearnError

_FULL = "the disk is full"
_NOT_WRITTEN = "a file could not be written (is the disk full?)"
_MEMORY = "out of memory"
_NO_PLACE = "no folder for temporary files can be written"
_BY_NUMBER = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file grew larger than this account or file system allows",
    errno.EACCES: "no permission to read or write",
    errno.EPERM: "no permission to read or write",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an input/output error",
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EEXIST: "something is there already",
    errno.EISDIR: "a folder is where a file should be",
    errno.ELOOP: "links go round in a circle",
    errno.ENAMETOOLONG: "a name is too long",
    errno.ESTALE: "the file server no longer knows a file",
    errno.EBADF: "a file was closed from outside",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Rust libraries (safetensors, tokenizers) keep the number as text; torch.save and the allocators only give words.
_NUMBER = re.compile(r"\(os error (\d+)\)")
_WORDS = (
    (re.compile(r"no space left on device", re.IGNORECASE), _FULL),
    (re.compile(r"file too large", re.IGNORECASE), _BY_NUMBER[errno.EFBIG]),
    (
        re.compile(r"out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE),
        _MEMORY,
    ),
    (re.compile(r"PytorchStreamWriter|inline_container"), _NOT_WRITTEN),
    (re.compile(r"\d+ requested and \d+ written"), _NOT_WRITTEN),  # numpy
    (re.compile(r"too many open files", re.IGNORECASE), _BY_NUMBER[errno.EMFILE]),
)
_ADVICE = {
    _MEMORY: "use fewer --workers, smaller batches or a bigger machine",
    _FULL: "make room or choose another --output-dir",
    _NOT_WRITTEN: "make room or choose another --output-dir",
    _BY_NUMBER[errno.EMFILE]: "raise the limit (ulimit -n)",
    _NO_PLACE: "set TMPDIR to a folder with room",
}
_OTHER_ADVICE = "fix that or choose another --output-dir (HF_UNLEARN_CACHE says where built models are kept)"


@contextmanager
def environment_failures(output_dir: Path) -> Iterator[None]:
    """Turn what the machine refuses within the block into :class:`EnvironmentFailure`; all else passes through.

    Args:
        output_dir: The run's folder, for the message.

    Raises:
        EnvironmentFailure: Says what failed, where, and how to go on.
    """
    try:
        yield
    except HfUnlearnError:
        raise
    except Exception as error:
        found = explain(error)
        if found is None:
            raise
        what, where = found
        raise EnvironmentFailure(
            f"{what}{f' ({where})' if where else ''}: {_ADVICE.get(what, _OTHER_ADVICE)}, then run the same command "
            f"again; everything finished in {output_dir} is kept"
        ) from error


def in_one_sentence(error: BaseException) -> str | None:
    """What the machine refused a command, and what to do; ``None`` if an error does not come from the machine."""
    found = explain(error)
    if found is None:
        return None
    what, where = found
    return f"{what}{f' ({where})' if where else ''}: {_ADVICE.get(what, 'fix that')}, then run the same command again"


def explain(error: BaseException) -> tuple[str, str | None] | None:
    """What the machine refused and for which file, or ``None`` if an error does not come from the machine.

    Args:
        error: Any exception; the exceptions it was raised from are examined too.
    """
    for each in _chain(error):
        if isinstance(each, MemoryError):
            return _MEMORY, None
        if isinstance(each, OSError) and each.errno in _BY_NUMBER:
            return _BY_NUMBER[each.errno], None if each.filename is None else str(each.filename)
        if isinstance(each, FileNotFoundError) and "temporary directory" in str(each.strerror):
            return _NO_PLACE, None
        if isinstance(each, OSError) and each.errno is not None:
            continue
        number = _NUMBER.search(str(each))
        if number and int(number[1]) in _BY_NUMBER:
            return _BY_NUMBER[int(number[1])], None
        for words, what in _WORDS:
            if words.search(str(each)):
                return what, None
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of any device, was not enough. Allocators raise nothing but these types."""
    found = explain(error) if isinstance(error, RuntimeError | MemoryError) else None
    return found is not None and found[0] == _MEMORY


def no_room(error: BaseException) -> bool:
    """Whether an error comes from a full disk, a used-up quota or a file that may not grow."""
    found = explain(error)
    return found is not None and found[0] in (*(_BY_NUMBER[number] for number in _NO_ROOM), _NOT_WRITTEN)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
