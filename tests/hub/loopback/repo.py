"""A repository: commits that each know their whole file table, branches and tags that point to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Content = bytes | Path
LARGE = 10_000_000
_LARGE_KINDS = (".safetensors", ".gguf", ".bin", ".pt", ".pkl", ".onnx", ".h5")


def size_of(content: Content) -> int:
    """Bytes of a file's content."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def read(content: Content, start: int = 0, end: int | None = None) -> bytes:
    """Part of a file's content."""
    if isinstance(content, bytes):
        return content[start:end]
    with content.open("rb") as file:
        file.seek(start)
        return file.read() if end is None else file.read(end - start)


def is_large(path: str, sample: bytes, size: int) -> bool:
    """Whether the Hub stores a file outside git: by its name, because it is binary, or because it is big."""
    return path.endswith(_LARGE_KINDS) or b"\0" in sample or size > LARGE


@dataclass(frozen=True)
class File:
    """One file of one commit; ``sha256`` is set for what is stored outside git."""

    content: Content
    size: int
    blob_id: str
    sha256: str | None = None

    @property
    def etag(self) -> str:
        """What the client names the file by in its cache."""
        return self.sha256 or self.blob_id

    def listed(self, path: str) -> dict[str, object]:
        """The file as an entry of a listing."""
        entry: dict[str, object] = {"type": "file", "path": path, "size": self.size, "oid": self.blob_id}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


def make_file(path: str, content: Content) -> File:
    """A file as the Hub would store it."""
    size = size_of(content)
    if is_large(path, read(content, 0, 512), size):
        digest = hashlib.sha256()
        for start in range(0, size, 1 << 24):
            digest.update(read(content, start, start + (1 << 24)))
        return large_file(content, digest.hexdigest(), size)
    data = read(content)
    return File(data, len(data), git_id(data))


def large_file(content: Content, sha256: str, size: int) -> File:
    """A file stored outside git; git holds a pointer to it."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return File(content, size, git_id(pointer.encode()), sha256)


def git_id(data: bytes) -> str:
    """Name of a blob in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A commit with its whole file table."""

    sha: str
    parent: str | None
    title: str
    files: Mapping[str, File]


class StaleParent(Exception):
    """Somebody else has committed since."""


@dataclass
class Repo:
    """One model repository.

    Attributes:
        id: ``owner/name``.
        private: Whether only its owner sees it.
        gated: ``False``, ``"auto"`` or ``"manual"``.
        commits: By sha.
        branches, tags: Name to sha.
        large: Content that was uploaded, by sha256, committed or not.
        instead: Serve the files of another commit for this one, as a Hub that lies would.
    """

    id: str
    private: bool = False
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large: dict[str, Content] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        self._commit("main", None, "initial commit", {".gitattributes": make_file(".gitattributes", attributes)})

    def resolve(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a sha names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(sha)

    def served(self, commit: Commit) -> Mapping[str, File]:
        """The file table that a client gets for a commit."""
        return self.commits[self.instead.get(commit.sha, commit.sha)].files

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content of every file but the Hub's own ``.gitattributes``."""
        commit = self.resolve(revision)
        assert commit is not None, f"{self.id} has no {revision}"
        return {path: read(file.content) for path, file in commit.files.items() if path != ".gitattributes"}

    def log(self, branch: str = "main") -> list[Commit]:
        """Commits of a branch, newest first, without the initial one that the Hub makes."""
        found = []
        sha: str | None = self.branches[branch]
        while sha is not None:
            found.append(self.commits[sha])
            sha = found[-1].parent
        return found[:-1]

    def put(self, changes: Mapping[str, Content | None], branch: str = "main", title: str = "by somebody else") -> str:
        """A commit by somebody else: new content of files, ``None`` to delete one. Returns its sha."""
        files = dict(self.commits[self.branches[branch]].files)
        for path, content in changes.items():
            if content is None:
                del files[path]
            else:
                files[path] = make_file(path, content)
        return self._commit(branch, self.branches[branch], title, files)

    def commit(
        self,
        branch: str,
        parent: str | None,
        title: str,
        added: Mapping[str, File],
        deleted: Iterable[str],
        deleted_folders: Iterable[str],
    ) -> str:
        """A commit that came in by HTTP.

        Raises:
            StaleParent: The branch no longer points to ``parent``.
            KeyError: A file that is deleted is not there.
        """
        head = self.branches[branch]
        if parent is not None and not head.startswith(parent):
            raise StaleParent
        files = dict(self.commits[head].files)
        for path in deleted:
            del files[path]
        for folder in deleted_folders:
            files = {path: file for path, file in files.items() if not path.startswith(folder.rstrip("/") + "/")}
        return self._commit(branch, head, title, {**files, **added})

    def _commit(self, branch: str, parent: str | None, title: str, files: Mapping[str, File]) -> str:
        table = "".join(f"{path} {file.blob_id}\n" for path, file in sorted(files.items()))
        sha = hashlib.sha1(f"{self.id}\n{parent}\n{title}\n{len(self.commits)}\n{table}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, dict(sorted(files.items())))
        self.branches[branch] = sha
        return sha
