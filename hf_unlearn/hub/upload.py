"""One folder into one branch of one repository: one commit, or none if everything is already there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import EnvironmentFailure, RequestError
from ..verification.report_file import REPORT_FILE
from .client import HubClient, is_network, status_of, wait_before_retry
from .files import CARD_FILE
from .folders import Staged
from .options import MAIN

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

_HUB_FILES = (".gitattributes",)
# What a repository made by hand before the first publication may hold.
_HARMLESS = (*_HUB_FILES, "README.md", "LICENSE", ".gitignore")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the Hub: ``sha256`` where it is stored outside git, otherwise ``blob_id``, git's own name for it."""

    blob_id: str
    sha256: str | None


@dataclass(frozen=True)
class RepoState:
    """A repository as it is.

    Attributes:
        private: Whether only its owner sees it.
        gated: ``False``, ``"auto"`` or ``"manual"``.
        branches, tags: Name to commit.
    """

    private: bool
    gated: str | bool
    branches: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Uploaded:
    """The result of uploading a folder.

    Attributes:
        staged: The folder.
        commit: The commit that holds it.
        made: Whether that is a new one.
        tags: Tags that its repository had before.
    """

    staged: Staged
    commit: str
    made: bool
    tags: Mapping[str, str] = field(default_factory=dict)


def read_state(client: HubClient, repo_id: str, *, again: bool = True) -> RepoState | None:
    """A repository as it is; ``None`` if there is none.

    Args:
        client: The connection.
        repo_id: The repository.
        again: Whether to retry temporary failures.

    Raises:
        EnvironmentFailure: The Hub failed or refused.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    api = client.api

    def ask() -> Any:
        try:
            return api.model_info(repo_id)
        except RepositoryNotFoundError as error:
            if status_of(error) == 404:
                return None
            raise

    info = client.call(f"read {repo_id}", ask, again=again)
    if info is None:
        return None
    refs = client.call(f"read {repo_id}", api.list_repo_refs, repo_id, again=again)
    return RepoState(
        bool(info.private),
        info.gated or False,
        {ref.name: ref.target_commit for ref in refs.branches},
        {ref.name: ref.target_commit for ref in refs.tags},
    )


def read_files(client: HubClient, repo_id: str, commit: str) -> dict[str, RemoteFile]:
    """Every file of a commit.

    Raises:
        EnvironmentFailure: The Hub failed or refused.
    """

    from huggingface_hub.hf_api import RepoFile

    known = client.listings.get((repo_id, commit))
    if known is not None:
        return known

    def ask() -> dict[str, RemoteFile]:
        entries = client.api.list_repo_tree(repo_id, recursive=True, revision=commit)
        return {
            entry.path: RemoteFile(entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    found = client.call(f"list the files of {repo_id}", ask, again=False)
    client.listings[repo_id, commit] = found
    return found


def check_place(client: HubClient, staged: Staged, state: RepoState | None) -> None:
    """Check that nothing is in the way, before anything is written.

    Raises:
        RequestError: The repository holds something that was not published from here.
        EnvironmentFailure: The Hub failed or refused.
    """
    if state is None or staged.branch not in state.branches:
        return
    there = read_files(client, staged.repo_id, state.branches[staged.branch])
    strange = sorted(name for name in there if name not in _HARMLESS)
    if strange and REPORT_FILE not in there:
        raise RequestError(
            f"{staged.repo_id} holds something other than a verified model ({strange[0]}): choose another --repo-id"
        )


def check_tag(client: HubClient, staged: Staged, state: RepoState | None, tag: str) -> None:
    """Check that a tag does not name another release, before anything is written.

    Raises:
        RequestError: The tag names another release.
        EnvironmentFailure: The Hub failed or refused.
    """
    if state is None or tag not in state.tags:
        return
    if changes(staged, read_files(client, staged.repo_id, state.tags[tag])):
        raise RequestError(
            f"the tag {tag} of {staged.repo_id} already names another release: choose a new one with --tag"
        )


def changes(staged: Staged, there: Mapping[str, RemoteFile]) -> dict[str, bool]:
    """What a commit has to change: path to whether it is added (``False``: deleted). Empty if nothing."""
    found = {name: False for name in there if name not in staged.files and name not in _HUB_FILES}
    for name, digest in staged.files.items():
        remote = there.get(name)
        if remote is None:
            same = False
        elif remote.sha256 is not None:
            same = remote.sha256 == digest
        else:
            same = remote.blob_id == _git_id((staged.folder / name).read_bytes())
        if not same:
            found[name] = True
    return found


def make_repo(client: HubClient, repo_id: str) -> RepoState:
    """A new repository, private in any case: it becomes public once it is complete.

    Raises:
        EnvironmentFailure: The Hub failed or refused.
    """
    api = client.api
    client.call(f"make the repository {repo_id}", api.create_repo, repo_id, private=True, exist_ok=True)
    info = client.call(f"read {repo_id}", api.model_info, repo_id)
    there = [each.rfilename for each in info.siblings or ()]
    if info.sha and info.private and all(name in _HUB_FILES for name in there):
        # As the Hub makes them: empty, and a single answer gives this together with the commit.
        client.listings[repo_id, info.sha] = {}
        return RepoState(True, False, {MAIN: info.sha})
    # Somebody was faster, for example an earlier try whose answer was lost.
    state = read_state(client, repo_id)
    if state is None:
        raise EnvironmentFailure(f"{repo_id} was made and no longer exists: run the same command again")
    return state


@dataclass(frozen=True)
class Begun:
    """A folder whose large files are on the Hub, where no reader sees them before the commit.

    Attributes:
        staged: The folder.
        head: The branch's head, which the commit comes on top of.
        additions: What the commit adds.
        deleted: What it deletes.
        tags: Tags that the repository had before.
        replaces_card: Whether the branch has another card, which the commit replaces.
    """

    staged: Staged
    head: str
    additions: tuple[CommitOperationAdd, ...]
    deleted: tuple[str, ...]
    tags: Mapping[str, str]
    replaces_card: bool = False


def begin(client: HubClient, staged: Staged, state: RepoState) -> Begun:
    """Upload what a branch lacks of a folder, without a commit.

    Args:
        client: The connection.
        staged: The folder.
        state: Its repository as it is.

    Raises:
        EnvironmentFailure: The Hub failed or refused.
    """
    from huggingface_hub import CommitOperationAdd

    api, repo_id = client.api, staged.repo_id
    heads = dict(state.branches)
    if staged.branch not in heads:
        client.call(
            f"make the branch {staged.branch} of {repo_id}",
            api.create_branch,
            repo_id,
            branch=staged.branch,
            revision=heads[MAIN],
            exist_ok=True,
        )
        heads[staged.branch] = heads[MAIN]
    head = heads[staged.branch]
    there = read_files(client, repo_id, head)
    wanted = changes(staged, there)
    additions = [CommitOperationAdd(name, str(staged.folder / name)) for name, added in wanted.items() if added]
    for addition in additions:
        # Known from the check that these files have just passed; a file that changed since is refused by the Hub.
        addition.upload_info.sha256 = bytes.fromhex(staged.files[addition.path_in_repo])
    if additions:
        doing = f"upload the files of {_place_of(staged)}"
        preupload = api.preupload_lfs_files
        client.call(doing, preupload, repo_id, additions, revision=staged.branch, again=False)
    deleted = tuple(name for name, added in wanted.items() if not added)
    replaces_card = CARD_FILE in there and CARD_FILE in wanted
    return Begun(staged, head, tuple(additions), deleted, state.tags, replaces_card)


def finish(client: HubClient, begun: Begun, message: str) -> Uploaded:
    """Commit a folder to its branch, in one commit on top of the head at the start.

    A commit whose answer was lost is found, not repeated.

    Args:
        client: The connection.
        begun: The folder.
        message: Title of the commit.

    Raises:
        EnvironmentFailure: The Hub failed or refused, or somebody else has committed in the meantime.
    """
    from huggingface_hub import CommitOperationDelete

    staged = begun.staged
    operations: list[CommitOperationAdd | CommitOperationDelete] = list(begun.additions)
    operations += [CommitOperationDelete(name) for name in begun.deleted]
    if not operations:
        return Uploaded(staged, begun.head, False, begun.tags)

    def send() -> str:
        try:
            return client.api.create_commit(
                staged.repo_id,
                operations,
                commit_message=message,
                revision=staged.branch,
                parent_commit=begun.head,
            ).oid
        except Exception as error:
            # It may have arrived although its answer has not; then a second one would conflict with it.
            unsure = status_of(error) == 412 or is_network(error) or wait_before_retry(error, 1) is not None
            landed = _landed(client, staged, begun.head) if unsure else None
            if landed is None:
                raise
            return landed

    return Uploaded(staged, client.call(f"commit to {_place_of(staged)}", send), True, begun.tags)


def _place_of(staged: Staged) -> str:
    return staged.repo_id if staged.branch == MAIN else f"{staged.repo_id} ({staged.branch})"


def _landed(client: HubClient, staged: Staged, parent: str) -> str | None:
    """The branch's head, if it is a new commit that holds the folder."""
    try:
        state = read_state(client, staged.repo_id, again=False)
        head = state.branches.get(staged.branch) if state is not None else None
        if head is None or head == parent:
            return None
        return None if changes(staged, read_files(client, staged.repo_id, head)) else head
    except EnvironmentFailure:
        return None


def set_tag(client: HubClient, uploaded: Uploaded, tag: str) -> None:
    """Tag a commit, unless it is tagged.

    Raises:
        RequestError: The tag names another release.
        EnvironmentFailure: The Hub failed or refused.
    """
    from huggingface_hub.errors import HfHubHTTPError

    if tag in uploaded.tags:
        return  # its commit was compared before anything was written
    repo_id = uploaded.staged.repo_id

    def send() -> bool:
        try:
            client.api.create_tag(repo_id, tag=tag, revision=uploaded.commit)
        except HfHubHTTPError as error:
            if status_of(error) == 409:
                return False
            raise
        return True

    if not client.call(f"tag {repo_id}", send):
        check_tag(client, uploaded.staged, read_state(client, repo_id), tag)


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
