"""The Hub's state, and its life as a server on loopback."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from .faults import Cut, Fault
from .repo import Content, Repo


@dataclass(frozen=True)
class Token:
    """Who asks, and what they may.

    Attributes:
        user: Name of the user.
        role: ``read``, ``write`` or ``fineGrained``.
        orgs: Organizations the user may write to (``read`` as a value: only look).
        expired: It was valid once.
        scoped: For a fine-grained token: entity (user, organization or repository) to permissions.
    """

    user: str = "owner"
    role: str = "write"
    orgs: Mapping[str, str] = field(default_factory=lambda: {"org": "write"})
    expired: bool = False
    scoped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sees(self, namespace: str) -> bool:
        """Whether private repositories of a namespace are visible."""
        return namespace == self.user or namespace in self.orgs

    def writes(self, repo_id: str) -> bool:
        """Whether a repository may be made or changed."""
        namespace = repo_id.split("/")[0]
        if self.role == "fineGrained":
            allowed = (*self.scoped.get(namespace, ()), *self.scoped.get(repo_id, ()))
            return "repo.write" in allowed
        return self.role == "write" and (namespace == self.user or self.orgs.get(namespace) in ("write", "admin"))


@dataclass(frozen=True)
class Request:
    """A request that came in."""

    method: str
    path: str
    status: int

    @property
    def line(self) -> str:
        """``METHOD /path``."""
        return f"{self.method} {self.path}"


@dataclass
class Collection:
    """A collection; ``items`` are ids of models with their notes."""

    slug: str
    title: str
    owner: str
    private: bool
    description: str
    items: dict[str, str | None] = field(default_factory=dict)


class Hub:
    """A Hub on 127.0.0.1; a context manager, or :meth:`start` and :meth:`close`.

    Attributes:
        repos: Repositories by id.
        collections: Collections by slug.
        tokens: Token text to who it belongs to.
        faults: What goes wrong.
        requests: What was asked, in order, with the status of the answer (0: the connection was cut).
        validated: Cards that were sent for validation.
        quota: Bytes that all repositories together may store outside git; ``None`` is no limit.
        part_size: Larger files are uploaded in parts of this size; ``None`` takes any file in one piece.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, Collection] = {}
        self.write_token, self.read_token, self.expired_token, self.fine_token = (
            "hf_" + secrets.token_hex(17) for _ in range(4)
        )
        fine = Token(role="fineGrained", scoped={"owner": ("repo.content.read", "repo.write"), "org": ("repo.read",)})
        self.tokens = {
            self.write_token: Token(),
            self.read_token: Token(role="read"),
            self.expired_token: Token(expired=True),
            self.fine_token: fine,
        }
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.validated: list[str] = []
        self.quota: int | None = None
        self.part_size: int | None = None
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Hub:
        """Listen on a free port."""
        from .handler import Handler

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def settings(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Environment variables that lead a client here, without anything of the caller's own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            **({"HF_TOKEN": token} if token else {}),
        }

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The whole environment of a client process."""
        left_out = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE")
        here = {key: value for key, value in os.environ.items() if key not in left_out}
        return {**here, **self.settings(home, token)}

    def add_token(self, **about: Any) -> str:
        """A new token: see :class:`Token`."""
        text = "hf_" + secrets.token_hex(17)
        self.tokens[text] = Token(**about)
        return text

    def create(self, repo_id: str, files: Mapping[str, Content] | None = None, *, private: bool = False) -> Repo:
        """A repository as somebody published it."""
        repo = self.repos[repo_id] = Repo(repo_id, private)
        if files:
            repo.put(files, title="published")
        return repo

    def create_from(self, repo_id: str, folder: Path, *, private: bool = False) -> Repo:
        """A repository with the files of a folder (served from there, so it must stay)."""
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return self.create(repo_id, files, private=private)

    def fault(
        self,
        where: str,
        *,
        status: int | None = None,
        message: str = "",
        code: str | None = None,
        retry_after: int | None = None,
        cut: Cut | None = None,
        before: Callable[[Hub], object] | None = None,
        echo: bool = False,
        text: str | None = None,
        times: float = 1,
        skip: int = 0,
    ) -> Fault:
        """Let something go wrong at requests like ``where``: see :class:`Fault`."""
        made = Fault(where, status, message, code, retry_after, cut, before, echo, text, times, skip)
        self.faults.append(made)
        return made

    def clear_faults(self) -> None:
        """Everything goes well again."""
        self.faults.clear()

    def count(self, where: str) -> int:
        """How many requests matched."""
        return sum(re.search(where, request.line) is not None for request in self.requests)

    def stored(self) -> int:
        """Bytes stored outside git."""
        from .repo import size_of

        return sum(size_of(content) for repo in self.repos.values() for content in repo.large.values())
