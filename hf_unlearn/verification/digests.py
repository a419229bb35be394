"""SHA-256 of the files of a folder, and what differs between two lists of them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import EnvironmentFailure

_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileStamp:
    """What the file system says of a file: if none of it changes, nobody wrote to the file in the ordinary way.

    Writing through a memory mapping is another way: ext4 moves the times of the file only when it writes the pages
    back, tmpfs never does.

    Attributes:
        device: The file system it is on.
        inode: Its number there.
        size: In bytes.
        mtime_ns: Last change of its content, in nanoseconds. Its owner can set this to anything.
        ctime_ns: Last change of content, name or rights, in nanoseconds. Only the kernel sets this.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileStamp:
        """From what ``os.stat`` returns."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def file_stamps(folder: Path, names: Iterable[str]) -> dict[str, FileStamp | None]:
    """The current stamps of several files; ``None`` for one that is missing.

    Args:
        folder: The folder.
        names: Paths relative to it. Links are followed.
    """
    found: dict[str, FileStamp | None] = {}
    for name in names:
        try:
            found[name] = FileStamp.of((folder / name).stat())
        except OSError:
            found[name] = None
    return found


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, read in pieces of one megabyte.

    Args:
        path: The file.

    Raises:
        EnvironmentFailure: It cannot be read.
    """
    digest = hashlib.sha256()
    piece = memoryview(bytearray(_CHUNK))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(piece):
                digest.update(piece[:count])
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def list_files(folder: Path, *, links_within: Path | None = None) -> tuple[list[str], list[str]]:
    """All files of a folder and its sub-folders.

    Args:
        folder: The folder.
        links_within: Links to files are followed if they lead to somewhere inside this folder (the download cache of
            the Hub consists of such links). Without it no link is followed, wherever it leads.

    Returns:
        Paths of files relative to the folder, with forward slashes, sorted; and one sentence per entry that is
        neither a plain file nor an allowed link, and per folder that cannot be listed.
    """
    files: list[str] = []
    problems: list[str] = []

    def unlisted(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # what is not there has nothing in it
            problems.append(f"{_relative(error.filename, folder)}: cannot be listed ({error.strerror})")

    for where, folders, names in os.walk(folder, onerror=unlisted):
        linked = [name for name in folders if (Path(where) / name).is_symlink()]
        for name in (*names, *linked):
            path = Path(where) / name
            relative = _relative(path, folder)
            if path.is_symlink() and not (links_within and _leads_into(path, links_within)):
                problems.append(f"{relative}: is a link, and a published folder holds only files")
            elif not _is_plain(path):
                problems.append(f"{relative}: is not a plain file")
            else:
                files.append(relative)
    return sorted(files), sorted(problems)


def list_entries(folder: Path) -> frozenset[str]:
    """Everything in a folder and its sub-folders: files, folders, links, pipes and whatever else has a name.

    Args:
        folder: The folder. Links are listed, not followed.

    Returns:
        Paths relative to it, with forward slashes. A folder that cannot be listed has a second entry that says so, and
        so differs from what it was when it could be.
    """
    found: set[str] = set()

    def unlisted(error: OSError) -> None:
        found.add(f"{_relative(error.filename, folder)}/?")

    for where, folders, names in os.walk(folder, onerror=unlisted):
        found.update(_relative(os.path.join(where, name), folder) for name in (*folders, *names))
    return frozenset(found)


def _relative(path: str | Path, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix()


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a link to nothing or in a circle, or a folder whose files may be named but not looked at
        return False


def _leads_into(link: Path, folder: Path) -> bool:
    # realpath, because Path.resolve raises where links go round in a circle.
    return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(folder))


def hash_files(folder: Path, names: Iterable[str], hasher: Callable[[Path], str] = sha256_file) -> dict[str, str]:
    """SHA-256 of several files, hashed side by side in threads.

    Args:
        folder: The folder.
        names: Paths relative to it.
        hasher: What hashes one file.

    Returns:
        Path to digest, sorted by path.

    Raises:
        EnvironmentFailure: A file cannot be read.
    """
    ordered = sorted(names)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        return dict(zip(ordered, threads.map(lambda name: hasher(folder / name), ordered), strict=True))


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder.

    Args:
        folder: The folder.

    Returns:
        Path relative to the folder to digest, sorted by path.

    Raises:
        EnvironmentFailure: The folder holds something that is not a plain file, or a file cannot be read.
    """
    files, problems = list_files(folder)
    if problems:
        raise EnvironmentFailure(f"{folder}: {problems[0]}")
    return hash_files(folder, files)


def compare_digests(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """One sentence for every file that is missing, too many, or not what it was, sorted by file.

    Args:
        expected: Path to digest as it should be.
        found: Path to digest as it is.
    """
    problems = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            problems.append(f"{name}: is missing")
        elif name not in expected:
            problems.append(f"{name}: was added, the report does not know it")
        elif expected[name] != found[name]:
            was, now = expected[name][:12], found[name][:12]
            problems.append(f"{name}: is not the file that was verified (sha256 {now}… instead of {was}…)")
    return problems


def new_salt() -> bytes:
    """32 random bytes. They stay with the owner of the data: who has them can test guesses against the hash."""
    return secrets.token_bytes(32)


def salted_id(fact: str, salt: bytes) -> str:
    """A short name for a fact that says nothing of it without the salt: 12 hexadecimal digits of its HMAC-SHA-256."""
    return hmac.new(salt, fact.encode(), hashlib.sha256).hexdigest()[:12]


def salted_hash(rows: Iterable[tuple[str, str]], salt: bytes) -> str:
    """A commitment to a set of rows.

    Each row is hashed with HMAC-SHA256 under the salt, the hashes are sorted, and the HMAC of their sequence is taken.
    The order of the rows does not matter, their number does. Without the salt a guess cannot be tested, so
    the hash may be published; with it the owner can prove later which rows were meant.

    Args:
        rows: Prompt and answer of each row.
        salt: At least 16 secret bytes.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: The salt is too short to keep anything secret.
    """
    if len(salt) < 16:
        raise ValueError("a salt needs at least 16 bytes")
    hashes = sorted(
        hmac.new(salt, json.dumps(list(row), ensure_ascii=False).encode(), hashlib.sha256).digest() for row in rows
    )
    return hmac.new(salt, b"".join(hashes), hashlib.sha256).hexdigest()
