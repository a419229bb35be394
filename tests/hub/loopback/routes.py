"""What each address does, and who may ask it."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from .handler import Answer, Handler, Refused
from .hub import Token
from .repo import Repo

Route = Callable[..., Answer]
_ROUTES: list[tuple[str, re.Pattern[str], Route]] = []
REPO = r"(?P<repo>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
DATE = "2026-01-02T03:04:05.000Z"


def route(method: str, path: str) -> Callable[[Route], Route]:
    """Register a function for an address; its named groups become arguments."""

    def add(function: Route) -> Route:
        _ROUTES.append((method, re.compile(path), function))
        return function

    return add


def dispatch(handler: Handler) -> Answer:
    """Find what an address does, and do it.

    Raises:
        Refused: There is no such address, or the request is refused.
    """
    from . import routes_collections, routes_read, routes_write  # noqa: F401

    method = "GET" if handler.command == "HEAD" else handler.command
    for wanted, pattern, function in _ROUTES:
        found = pattern.fullmatch(handler.plain_path)
        if found and wanted == method:
            groups = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
            return function(handler, **groups)
    raise Refused(404, "Not found")


def visible(handler: Handler, repo_id: str) -> Repo:
    """A repository that this client may know of.

    Raises:
        Refused: There is none; the Hub answers so for private ones too.
    """
    token = handler.token()
    repo = handler.hub.repos.get(repo_id)
    if repo is None or (repo.private and (token is None or not token.sees(repo_id.split("/")[0]))):
        raise Refused(404 if token else 401, "Repository not found", "RepoNotFound")
    return repo


def readable(handler: Handler, repo_id: str) -> Repo:
    """A repository whose files this client may read.

    Raises:
        Refused: There is none, or it is gated.
    """
    repo = visible(handler, repo_id)
    token = handler.token()
    if repo.gated and (token is None or not token.sees(repo_id.split("/")[0])):
        raise Refused(403 if token else 401, f"Access to model {repo_id} is restricted", "GatedRepo")
    return repo


def writable(handler: Handler, repo_id: str) -> Repo:
    """A repository that this client may change.

    Raises:
        Refused: There is none, or the token may not.
    """
    may_write(handler, repo_id)
    return visible(handler, repo_id)


def may_write(handler: Handler, repo_id: str) -> Token:
    """The client's token, if it may write here.

    Raises:
        Refused: There is no token, or it may not.
    """
    token = handler.token()
    if token is None:
        raise Refused(401, "Invalid username or password.")
    if not token.writes(repo_id):
        raise Refused(403, f"You don't have the rights to write to {repo_id}")
    return token


def commit_of(repo: Repo, revision: str):
    """The commit that a revision names.

    Raises:
        Refused: There is none.
    """
    commit = repo.resolve(revision)
    if commit is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit
