"""Loading only what was verified."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import EnvironmentFailure, RequestError, VerificationError
from ..verification.report import REPORT_FILE
from ..verification.report import load_report as load_report_file
from .check import CheckResult, check_files, check_folder
from .metadata import is_hub_id

__all__ = ["CheckResult", "VerifiedModel", "check", "check_folder", "load_report"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_FILES = frozenset({".gitattributes"})
"""Made by the Hub in every repository, and read by nothing that loads a model."""

_REFUSED = {
    "trust_remote_code": "code in a repository is not part of what was verified",
    "quantization_config": "quantizing again makes a model that was not verified: load the published variant instead",
    "load_in_4bit": "quantizing again makes a model that was not verified: load the published variant instead",
    "load_in_8bit": "quantizing again makes a model that was not verified: load the published variant instead",
    "subfolder": "the files in a sub-folder are not part of what was verified",
    "gguf_file": "that file is not part of what was verified",
    "variant": "that file is not part of what was verified",
    "state_dict": "those weights are not what was verified",
    "config": "another configuration makes another model",
    "use_safetensors": "only safetensors are published",
}

Requirement = Literal["passed", "inconclusive", "any"]
_ACCEPTED = {
    "passed": {"passed"},
    "inconclusive": {"passed", "inconclusive"},
    "any": {"passed", "inconclusive", "failed"},
}


class VerifiedModel:
    """Loads a published model only if it is what was verified and the verdict is good enough."""

    @staticmethod
    def from_pretrained(
        repo_or_folder: str | Path,
        revision: str | None = None,
        require: Requirement = "passed",
        trusted_keys: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Check a published model, then load it with ``AutoModelForCausalLM``.

        Args:
            repo_or_folder: A folder, or an id on the Hub. A repository is resolved to one commit first, and all its
                files are taken from there.
            revision: Branch, tag or commit on the Hub.
            require: ``"passed"``; ``"inconclusive"`` also takes what is undecided; ``"any"`` takes whatever verdict
                an intact report has.
            trusted_keys: Keys of which one must have signed the report.
            **kwargs: Passed to ``AutoModelForCausalLM.from_pretrained`` (``dtype``, ``device_map`` ...). Those that
                would load something else than what was verified are refused.

        Returns:
            A plain transformers model.

        Raises:
            VerificationError: A file was changed, removed or added, the verdict is not the required one, or a
                signature is asked for; the message names the file or the check.
            RequestError: The arguments are wrong.
            EnvironmentFailure: The Hub cannot be reached.
        """
        if require not in _ACCEPTED:
            raise RequestError(f"require={require!r}: must be 'passed', 'inconclusive' or 'any'")
        for name, why in _REFUSED.items():
            harmless = name == "use_safetensors"
            if kwargs.get(name) is not None and kwargs[name] is not harmless:
                raise RequestError(f"{name} is refused: {why}")
        result = check(repo_or_folder, revision)
        if result.problems:
            more = f" (and {len(result.problems) - 1} more)" if len(result.problems) > 1 else ""
            raise VerificationError(f"{repo_or_folder}: {result.problems[0]}{more}")
        if trusted_keys is not None:
            raise VerificationError(
                f"{repo_or_folder}: {REPORT_FILE} carries no signature, so no trusted key can have signed it"
            )
        if result.report is None or result.status not in _ACCEPTED[require]:
            reasons = result.report["verdict"]["reasons"] if result.report else []
            why = f": {reasons[0]}" if reasons else ""
            raise VerificationError(
                f"{repo_or_folder}: the verdict is {result.status!r}, {require!r} is required{why}"
            )
        from transformers import AutoModelForCausalLM

        passed_on = {name: value for name, value in kwargs.items() if name not in _REFUSED}
        return AutoModelForCausalLM.from_pretrained(
            str(result.folder), use_safetensors=True, local_files_only=True, trust_remote_code=False, **passed_on
        )


def check(repo_or_folder: str | Path, revision: str | None = None) -> CheckResult:
    """:func:`check_folder` for a folder, or for all files of one commit of a repository on the Hub.

    Args:
        repo_or_folder: A folder, or an id on the Hub.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The result; its ``folder`` is where the checked files lie.

    Raises:
        RequestError: There is no such folder or repository, or a revision of a folder was asked for.
        EnvironmentFailure: The Hub cannot be reached.
    """
    if Path(repo_or_folder).is_dir():
        if revision is not None:
            raise RequestError(f"{repo_or_folder} is a folder: it has no revision {revision!r}")
        return check_folder(repo_or_folder)
    repo_id = _repo_id(repo_or_folder)
    folder = _download(repo_id, revision)
    # A snapshot in the download cache is made of links into the blobs beside it.
    return check_files(folder, links_within=folder.parent.parent, ignored=_HUB_FILES)


def load_report(path_or_repo: str | Path, revision: str | None = None) -> dict[str, Any]:
    """The report of a published folder or repository, of a run's output folder, or a report file.

    Only the report itself is checked, not the files beside it.

    Args:
        path_or_repo: A report file, a folder with one in it or in its ``verify`` sub-folder, or an id on the Hub.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The report.

    Raises:
        RequestError: There is none, or it was changed, or it does not fit its schema.
        EnvironmentFailure: The Hub cannot be reached.
    """
    path = Path(path_or_repo)
    if path.is_file():
        return load_report_file(path)
    if path.is_dir():
        places = [path / REPORT_FILE, path / "verify" / REPORT_FILE]
        found = next((place for place in places if place.is_file()), places[0])
        return load_report_file(found)
    return load_report_file(_download(_repo_id(path_or_repo), revision, only=REPORT_FILE) / REPORT_FILE)


def _repo_id(name: str | Path) -> str:
    if not isinstance(name, str) or not is_hub_id(name):
        raise RequestError(f"{name} is neither a folder nor an id on the Hub")
    return name


def _download(repo_id: str, revision: str | None, only: str | None = None) -> Path:
    """All files (or one) of one commit, as a folder in the download cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = revision
        if commit is None or not _COMMIT.fullmatch(commit):
            commit = HfApi().model_info(repo_id, revision=revision).sha
        return Path(snapshot_download(repo_id, revision=commit, allow_patterns=only))
    except RepositoryNotFoundError as error:
        raise RequestError(f"there is no model {repo_id!r} on the Hub that you can read") from error
    except RevisionNotFoundError as error:
        raise RequestError(f"{repo_id} has no revision {revision!r}") from error
    except (HTTPError, OSError) as error:
        why = str(error).splitlines()[0]
        raise EnvironmentFailure(
            f"{repo_id} is no folder here and could not be fetched from the Hub: {why}"
        ) from error
