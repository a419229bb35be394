"""Digests of files in the download cache, remembered from one check to the next. Off unless requested.

A file is hashed again unless device, inode, size, time of last change and the kernel's own change time (ctime) are
all what they were. An ordinary program can set the time of last change back but not the ctime. This is still weaker
than hashing: a write through a memory mapping (ext4 moves the times only when it writes the pages back, tmpfs never
does), root, a changed clock, a raw write to the disk, or a file system without a reliable ctime (many network and FUSE
mounts) can change a file without changing any of these. That is why it is off unless asked for, and why it is
for blobs of the download cache alone: they are named by their content, written once and renamed into place, so a
change there is an exception, while a user's own folder is written to all the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from ..runtime.files import whole_file
from ..verification.digests import FileStamp, file_stamps, sha256_file

_VERSION = 1
_SETTLED_SECONDS = 2.0
"""A file whose ctime is younger than this may be written to again within one tick of its file system's clock."""


def memory_file() -> Path:
    """Where digests are remembered: ``$XDG_CACHE_HOME/hf_unlearn/digests.json``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hf_unlearn" / "digests.json"


class DigestMemory:
    """Hashes files, but no unchanged file twice.

    The file must belong to this user and be writable by nobody else; otherwise, or if it cannot be read, it is
    ignored.

    Args:
        blobs: The folder in which files may be remembered; any other file is hashed each time.
        path: Where digests are kept.
    """

    def __init__(self, blobs: Path, path: Path | None = None) -> None:
        self._blobs = Path(os.path.realpath(blobs))
        self._path = memory_file() if path is None else path
        self._known = _read(self._path)
        self._new: dict[str, dict[str, object]] = {}
        self.reused: list[str] = []

    def __call__(self, path: Path) -> str:
        """SHA-256 of a file, see :func:`~hf_unlearn.verification.digests.sha256_file`."""
        blob = Path(os.path.realpath(path))
        try:
            before = FileStamp.of(blob.stat())
        except OSError:
            return sha256_file(path)  # which reports what is wrong
        if not blob.is_relative_to(self._blobs):
            return sha256_file(path)
        entry = self._known.get(str(blob))
        if entry is not None and entry.get("stamp") == _as_list(before):
            self.reused.append(blob.name)
            return str(entry["sha256"])
        digest = sha256_file(blob)
        settled = time.time() - before.ctime_ns / 1e9 > _SETTLED_SECONDS
        if settled and file_stamps(blob.parent, [blob.name]) == {blob.name: before}:
            self._new[str(blob)] = {"stamp": _as_list(before), "sha256": digest}
        return digest

    def save(self) -> None:
        """Keep the new digests. A cache that cannot be written is no reason to fail."""
        if not self._new:
            return
        entries = {**_read(self._path), **self._new}
        text = json.dumps({"version": _VERSION, "files": entries})
        own = self._path.with_name(f".{self._path.name}.{os.getpid()}")  # several checks may end at the same time
        with contextlib.suppress(OSError), whole_file(self._path, own) as work:
            work.touch(0o600)
            work.write_text(text, encoding="utf-8")


def _as_list(stamp: FileStamp) -> list[int]:
    return [stamp.device, stamp.inode, stamp.size, stamp.mtime_ns, stamp.ctime_ns]


def _read(path: Path) -> dict[str, dict[str, object]]:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_mode & 0o022 or (hasattr(os, "getuid") and about.st_uid != os.getuid()):
                return {}
            kept = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    whole = isinstance(kept, dict) and kept.get("version") == _VERSION and isinstance(kept.get("files"), dict)
    return kept["files"] if whole else {}
