"""All files of one commit of a repository, as a folder in the download cache."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import EnvironmentFailure, RequestError, first_line
from ..runtime.secrets import redact
from ..verification.digests import list_files
from .metadata import is_hub_id

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """One commit, fetched.

    Attributes:
        folder: Where its files are. They are links into the blobs of the repository's part of the cache.
        commit: The commit.
        offline: Whether the Hub was not asked (``HF_HUB_OFFLINE=1``), so a branch or tag is where this
            machine last saw it.
    """

    folder: Path
    commit: str
    offline: bool

    @property
    def storage(self) -> Path:
        """The repository's part of the cache: everything its snapshots link to is in here."""
        return self.folder.parent.parent


def fetch_snapshot(repo_id: str | Path, revision: str | None = None, only: str | None = None) -> Snapshot:
    """Resolve a revision to a commit, then fetch that commit and nothing else.

    Args:
        repo_id: Id of a model on the Hub.
        revision: Branch, tag or commit; the default branch if ``None``.
        only: The one file that is wanted.

    Returns:
        Where the files are. A commit that was fetched before is taken from the cache.

    Raises:
        RequestError: There is no such repository or revision.
        EnvironmentFailure: The Hub cannot be reached, or offline mode forbids it and the cache lacks the commit.
    """
    if not isinstance(repo_id, str) or not is_hub_id(repo_id):
        raise RequestError(f"{repo_id} is neither a folder nor an id on the Hub")
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    offline = bool(constants.HF_HUB_OFFLINE)
    try:
        folder = _from_cache(repo_id, revision, only) if offline else _from_hub(repo_id, revision, only)
    except RepositoryNotFoundError:
        raise RequestError(f"there is no model {repo_id!r} on the Hub that you can read") from None
    except RevisionNotFoundError:
        raise RequestError(f"{repo_id} has no revision {revision!r}") from None
    except HFValidationError:
        raise RequestError(f"{repo_id} is neither a folder nor an id on the Hub") from None
    except ValueError as error:  # the client refuses names by which a file would leave its folder
        raise EnvironmentFailure(f"{repo_id} was not fetched: {redact(first_line(error))}") from None
    except (HTTPError, OSError) as error:
        why = redact(first_line(error))
        if offline:
            why = f"HF_HUB_OFFLINE is set, and {revision or 'its default branch'} is not all in the download cache"
        raise EnvironmentFailure(
            f"{repo_id} is not a folder here and could not be fetched from the Hub: {why}"
        ) from None  # what the server said may repeat the token
    return Snapshot(folder, folder.name, offline)


def _from_hub(repo_id: str, revision: str | None, only: str | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if revision is not None and COMMIT.fullmatch(revision):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=only, endpoint=endpoint))
    # Asked for first and by itself: `snapshot_download` alone uses what it has when the Hub does not answer.
    info = HfApi(endpoint=endpoint).model_info(repo_id, revision=revision)
    refuse_names([each.rfilename for each in info.siblings or ()], repo_id)
    commit = str(info.sha)
    # By name, so that the cache remembers where branch or tag stood, for later without the Hub ...
    folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=only, endpoint=endpoint))
    if folder.name != commit:  # ... and by commit, where somebody has published in between.
        folder = Path(snapshot_download(repo_id, revision=commit, allow_patterns=only, endpoint=endpoint))
    return folder


def refuse_names(names: Iterable[str], repo_id: str) -> None:
    """Refuse a repository that serves a file under a name that leads out of its folder, or that no file can have.

    The client refuses some of these itself, when it has already fetched others.

    Raises:
        EnvironmentFailure: There is one.
    """
    for name in names:
        if not _can_be_a_file(name):
            raise EnvironmentFailure(
                f"{repo_id} serves a file whose name leads out of its folder or cannot be one ({name[:80]!r}): "
                "nothing was fetched; ask its owner"
            )


def _can_be_a_file(name: str) -> bool:
    if "\\" in name or re.match("[A-Za-z]:", name) or any(unicodedata.category(letter) == "Cc" for letter in name):
        return False
    parts = name.split("/")
    return all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= 255 for part in parts)


def _from_cache(repo_id: str, revision: str | None, only: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=only, local_files_only=True))


@contextmanager
def private_folder() -> Iterator[Path]:
    """An empty folder that only this user can enter, gone afterwards.

    What was mapped into memory from its files stays readable to this process, and cannot be reached by any name.

    Raises:
        EnvironmentFailure: It cannot be made.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix="hf_unlearn-"))
    except OSError as error:
        raise EnvironmentFailure(f"no folder for temporary files can be made: {error.strerror or error}") from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy_files(source: Path, target: Path, links_within: Path | None = None) -> None:
    """Copy all files of a folder; anything else is copied as a link, so that a check of the copy finds it too.

    Args:
        source: The folder.
        target: An empty folder.
        links_within: Links that lead to somewhere inside this folder count as the files they lead to.

    Raises:
        EnvironmentFailure: A file cannot be read, or there is no room for its copy.
    """
    names, strange = list_files(source, links_within=links_within)
    try:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
        for problem in strange:
            place = target / problem.partition(": ")[0]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to("nowhere")
    except OSError as error:
        raise EnvironmentFailure(
            f"{source} cannot be copied to {target} ({error.strerror or error}): set TMPDIR to a place with room"
        ) from error
