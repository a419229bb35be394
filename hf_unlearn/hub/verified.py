"""Loading only what was verified."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..errors import RequestError, VerificationError
from ..reporting.results import Results
from ..reporting.sentences import verdict_reasons
from ..verification.digests import sha256_file
from ..verification.report_file import REPORT_FILE
from ..verification.report_file import load_report as load_report_file
from .check import CheckResult, as_keys, check_files, check_folder
from .digest_cache import DigestMemory
from .loading_arguments import passed_on
from .report_source import report_in
from .signatures import SigstoreIdentity, TrustedKey
from .snapshot import copy_files, fetch_snapshot, private_folder

__all__ = ["CheckResult", "SigstoreIdentity", "VerifiedModel", "check", "check_folder", "load_report"]

_HUB_FILES = frozenset({".gitattributes"})
"""Made by the Hub in every repository, and never read when a model is loaded."""

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
        trusted_keys: TrustedKey | Sequence[TrustedKey] | None = None,
        report_digest: str | None = None,
        reuse_digests: bool = False,
        private_copy: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Check a published model, then load it with ``AutoModelForCausalLM``.

        Args:
            repo_or_folder: A folder, or an id on the Hub. A repository is resolved to one commit first, and all its
                files are taken from there.
            revision: Branch, tag or commit on the Hub.
            require: ``"passed"``; ``"inconclusive"`` also takes what is undecided; ``"any"`` takes whatever verdict
                an intact report has.
            trusted_keys: Public keys (PEM files) and Sigstore identities, of which one must have signed the report; a
                single one need not be in a list.
            report_digest: The ``digest`` that the report must have, as ``hf-unlearn check`` prints it: then nothing
                else is accepted, not even an older release by the same publisher. The first eight digits or more tell
                one release from another; only all 64 hold against a report that was made to begin like it.
            reuse_digests: Trust digests of files in the download cache that have not changed since they were last
                hashed, see :mod:`~hf_unlearn.hub.digest_cache`. Files that are written to through a memory mapping,
                before or during the load, are then not found.
            private_copy: Copy the files to a place of their own first, check and load the copy, and remove it. On a
                CPU, weights are read from their file as they are used: without the copy, who writes into that file
                later changes the loaded model. The copy is also the only way to be sure that what is loaded is what
                was hashed, and not something that was there just between the two looks. Takes room in the folder for
                temporary files (``TMPDIR``).
            **kwargs: Passed to ``AutoModelForCausalLM.from_pretrained``: precision, place and the way attention is
                computed (:data:`~hf_unlearn.hub.loading_arguments.ALLOWED`). Any other could load something else than
                what was verified, and is refused.

        Returns:
            A plain transformers model.

        Raises:
            VerificationError: A file was changed, removed or added (also while it was being loaded), the verdict is
                not the required one, or the signature is; the message names the file or the check.
            RequestError: The arguments are wrong.
            MissingExtraError: A key was given and ``model-signing`` is not installed.
            EnvironmentFailure: The Hub cannot be reached.
        """
        if require not in _ACCEPTED:
            raise RequestError(f"require={require!r}: must be 'passed', 'inconclusive' or 'any'")
        arguments = passed_on(kwargs)
        keys = as_keys(trusted_keys)
        if trusted_keys is not None and not (keys and all(map(str, keys))):
            raise RequestError("trusted_keys is empty: give a key, or leave it out to accept reports from anyone")
        if private_copy and reuse_digests:
            raise RequestError("private_copy and reuse_digests exclude each other: a copy is hashed, not remembered")
        with ExitStack() as stack:
            place = stack.enter_context(private_folder()) if private_copy else None
            return _checked_and_loaded(
                repo_or_folder, revision, require, keys, report_digest, reuse_digests, place, arguments
            )


def _checked_and_loaded(
    where: str | Path,
    revision: str | None,
    require: Requirement,
    trusted_keys: Sequence[TrustedKey],
    report_digest: str | None,
    reuse_digests: bool,
    place: Path | None,
    arguments: dict[str, Any],
) -> Any:
    result = check(where, revision, trusted_keys, report_digest, reuse_digests, copy_to=place)
    if result.problems:
        more = f" (and {len(result.problems) - 1} more)" if len(result.problems) > 1 else ""
        raise VerificationError(f"{where}: {result.problems[0]}{more}")
    if result.report is None or result.status not in _ACCEPTED[require]:
        reasons = verdict_reasons(Results(result.report)) if result.report else []
        why = f": {reasons[0]}" if reasons else ""
        raise VerificationError(f"{where}: the verdict is {result.status!r}, {require!r} is required{why}")
    _require_judged(where, result.report, require)
    model = _load(result, arguments)
    # Nobody but this user and root can reach a private copy, and remembered digests are there to read nothing twice.
    result.still_stands(read_again=place is None and not reuse_digests)
    if place is not None:
        model.name_or_path = model.config._name_or_path = str(where)
    return model


def check(
    repo_or_folder: str | Path,
    revision: str | None = None,
    trusted_keys: TrustedKey | Sequence[TrustedKey] = (),
    report_digest: str | None = None,
    reuse_digests: bool = False,
    copy_to: Path | None = None,
) -> CheckResult:
    """:func:`check_folder` for a folder, or for all files of one commit of a repository on the Hub.

    Args:
        repo_or_folder: A folder, or an id on the Hub. With ``HF_HUB_OFFLINE=1`` the commit is the one that the
            download cache knows for the revision.
        revision: Branch, tag or commit on the Hub.
        trusted_keys: As for :func:`check_folder`.
        report_digest: The digest that the report must have, or its first eight digits or more.
        reuse_digests: As for :class:`VerifiedModel`; refused for a folder.
        copy_to: An empty folder: the files are copied there, and the copies are checked.

    Returns:
        The result; its ``folder`` holds the checked files.

    Raises:
        RequestError: There is no such folder or repository, a revision of a folder was asked for, or a key cannot be
            used.
        MissingExtraError: A key was given and ``model-signing`` is not installed.
        EnvironmentFailure: The Hub cannot be reached.
    """
    _check_where(repo_or_folder)
    trusted_keys = as_keys(trusted_keys)
    _check_pin(report_digest)
    if Path(repo_or_folder).is_dir():
        if revision is not None:
            raise RequestError(f"{repo_or_folder} is a folder: it has no revision {revision!r}")
        if reuse_digests:
            raise RequestError(f"{repo_or_folder} is a folder: digests are reused in the download cache only")
        folder = Path(repo_or_folder)
        if copy_to is not None:
            copy_files(folder, copy_to)
            folder = copy_to
        return _pinned(check_folder(folder, trusted_keys), report_digest)
    snapshot = fetch_snapshot(repo_or_folder, revision)
    memory = DigestMemory(snapshot.storage / "blobs") if reuse_digests else None
    if copy_to is not None:
        copy_files(snapshot.folder, copy_to, links_within=snapshot.storage)
    # A snapshot in the download cache consists of links into the blobs next to it.
    result = check_files(
        copy_to or snapshot.folder,
        links_within=snapshot.storage,
        ignored=_HUB_FILES,
        trusted_keys=trusted_keys,
        hasher=memory or sha256_file,
    )
    if memory is not None and result.intact:
        memory.save()
    return _pinned(replace(result, commit=snapshot.commit, offline=snapshot.offline), report_digest)


def _check_where(where: object) -> None:
    if not isinstance(where, str | Path) or not str(where).strip():
        raise RequestError(f"there is no model {where!r}: give a folder, or an id on the Hub")


def _check_pin(digest: str | None) -> None:
    if digest is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", digest):
        raise RequestError(
            f"report_digest is {digest!r}: it must be the digest that `hf-unlearn check` prints, or its first 8 "
            "digits or more"
        )


def _pinned(result: CheckResult, digest: str | None) -> CheckResult:
    if digest is None or result.report is None or str(result.report_digest).startswith(digest.lower()):
        return result
    found = f"{REPORT_FILE}: is not the requested one (digest {result.report_digest}, not {digest})"
    return replace(result, problems=(found, *result.problems))


def _require_judged(where: str | Path, report: dict[str, Any], require: Requirement) -> None:
    """The verdict is about the transforms of the gate. A format that is only in the table has none."""
    name, candidate = report["format"], report["verdict"]["candidate"]
    mine = {row["status"] for row in report["recovered"] if (row["model"], row["transform"]) == (candidate, name)}
    if require != "any" and not mine & {"passed", "inconclusive", "failed"}:
        raise VerificationError(
            f"{where}: the format {name!r} was scored but not judged, {require!r} is required: "
            "load a format of the gate, or set require='any'"
        )


def _load(result: CheckResult, arguments: dict[str, Any]) -> Any:
    """Stock ``from_pretrained`` on the files that were checked, every weight of which has to be in the model."""
    from transformers import AutoModelForCausalLM

    from ..models.loading import gguf_arguments

    assert result.report is not None
    _refuse_foreign_code(result.folder)
    gguf = any(name.endswith(".gguf") for name in result.report["files"])
    # As it was scored: with the folder's own config, which has more settings than the reader derives from a GGUF file.
    how: dict[str, Any] = gguf_arguments(result.folder) if gguf else {"use_safetensors": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(result.folder),
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **how,
        **arguments,
    )
    model, info = loaded
    for kind, what in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "holds, and the model does not have,"),
        ("mismatched_keys", "holds in another shape"),
    ):
        if found := sorted(map(str, info.get(kind) or ())):
            raise VerificationError(f"{result.folder}: {what} the weight {found[0]}, so it is not what was verified")
    return model


def _refuse_foreign_code(folder: Path) -> None:
    """A model type that transformers does not know, or a kernel, is code elsewhere, which no digest here covers."""
    from ..models.foreign import foreign_code, read_json

    wanted = foreign_code(read_json(folder / "config.json"))
    if wanted is not None:
        raise VerificationError(
            f"{folder}: config.json asks for code that is not part of transformers ({wanted}), and code in a "
            "repository is not part of what was verified"
        )


def load_report(path_or_repo: str | Path, revision: str | None = None) -> dict[str, Any]:
    """The report of a published folder or repository, of a run's output folder, or a report file.

    Only the report itself is checked, not the files next to it.

    Args:
        path_or_repo: A report file, a folder with one in it or in its ``verify`` sub-folder, or an id on the Hub.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The report.

    Raises:
        RequestError: There is none, or it was changed, or it does not fit its schema.
        EnvironmentFailure: The Hub cannot be reached.
    """
    _check_where(path_or_repo)
    path = Path(path_or_repo)
    if path.is_file():
        return load_report_file(path)
    if path.is_dir():
        return load_report_file(report_in(path) or path / REPORT_FILE)
    return load_report_file(fetch_snapshot(path_or_repo, revision, only=REPORT_FILE).folder / REPORT_FILE)
