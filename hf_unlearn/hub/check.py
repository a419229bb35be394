"""Whether a published folder is, byte for byte, what its report says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, RequestError, VerificationError
from ..verification.digests import (
    FileStamp,
    compare_digests,
    file_stamps,
    hash_files,
    list_entries,
    list_files,
    sha256_file,
)
from ..verification.report_file import REPORT_FILE, read_report
from .beside import left_beside
from .files import SIGNATURE_FILE, is_weight_file, may_be_published
from .signatures import (
    NO_SIGNATURE,
    SignatureFinding,
    SigningKey,
    SigstoreIdentity,
    TrustedKey,
    check_signature,
    remove_half_signature,
    sign_report,
)


@dataclass(frozen=True)
class CheckResult:
    """What was found in a published folder.

    Attributes:
        folder: The folder.
        problems: One sentence per problem, each beginning with the file it is about; empty if every file is what
            the report says.
        report: The report; ``None`` if it is missing or was changed.
        signature: The result of checking the signature over the report.
        commit: The commit on the Hub that the folder is; ``None`` for a plain folder.
        offline: Whether the commit was taken from the download cache without asking the Hub.
        stamps: The file system's stamp of each file just before it was read.
        digests: SHA-256 of each file, report and signature included.
        entries: Everything that was in the folder, sub-folders included.
    """

    folder: Path
    problems: tuple[str, ...]
    report: dict[str, Any] | None
    signature: SignatureFinding = NO_SIGNATURE
    commit: str | None = None
    offline: bool = False
    stamps: Mapping[str, FileStamp | None] = field(default_factory=dict, repr=False)
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    entries: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def intact(self) -> bool:
        """Whether every file is what the report says."""
        return not self.problems

    @property
    def status(self) -> str | None:
        """The verdict's status; ``None`` if the report cannot be trusted."""
        return None if self.report is None else str(self.report["verdict"]["status"])

    @property
    def report_digest(self) -> str | None:
        """The digest in the report over itself, unique to it; ``None`` without a report."""
        return None if self.report is None else str(self.report["digest"])

    def still_stands(self, *, read_again: bool = True) -> None:
        """Make sure that no file was written to, replaced, added or removed since it was checked.

        Args:
            read_again: Hash all files once more. Without it, what was written through a memory mapping is not seen.

        Raises:
            VerificationError: One was, or something else appeared in the folder; the message names it.
            EnvironmentFailure: A file cannot be read any more.
        """
        now = file_stamps(self.folder, self.stamps)
        changed = [name for name, stamp in self.stamps.items() if now[name] != stamp]
        changed += sorted(self.entries ^ list_entries(self.folder))
        if not changed and read_again:
            found = hash_files(self.folder, self.digests)
            changed = [name for name, digest in self.digests.items() if found[name] != digest]
        if changed:
            raise VerificationError(f"{self.folder}: {changed[0]} was changed while it was being loaded")


def as_keys(trusted_keys: TrustedKey | Sequence[TrustedKey] | None) -> tuple[TrustedKey, ...]:
    """Trusted keys and identities as they may be given: none, one, or several of them."""
    if trusted_keys is None:
        return ()
    return (trusted_keys,) if isinstance(trusted_keys, str | Path | SigstoreIdentity) else tuple(trusted_keys)


def check_folder(
    path: str | Path,
    trusted_keys: TrustedKey | Sequence[TrustedKey] = (),
    *,
    hasher: Callable[[Path], str] = sha256_file,
) -> CheckResult:
    """Compare every file of a published folder with its report, and the report with its signature.

    Finds every file that was changed (one byte is enough, the report itself included), removed or added, whatever is
    not a plain file, and folders that cannot be listed. What the Hub's tools and git leave at the root of a download
    (``.gitattributes``, ``.cache/huggingface``, ``.git``) is passed over, unless it could be loaded or run.

    Only a signature shows *who* wrote the report: without trusted keys, someone who replaces the files and writes a
    new report to match is not found.

    Args:
        path: The folder.
        trusted_keys: Public keys (PEM files) and Sigstore identities, or a single one; if any are given, one of them
            must have signed the report.
        hasher: Hashes one file.

    Returns:
        The result, with all problems.

    Raises:
        RequestError: There is no such folder, it holds neither a report nor a model, or a key cannot be used.
        MissingExtraError: A key was given and ``model-signing`` is not installed.
        EnvironmentFailure: A file cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder")
    if not (folder / REPORT_FILE).exists() and not (folder / "config.json").exists():
        inner = folder / "publish"
        where = f": a run publishes to {inner}" if inner.is_dir() else ""
        raise RequestError(f"{folder} holds no published model (neither {REPORT_FILE} nor config.json){where}")
    return check_files(folder, trusted_keys=as_keys(trusted_keys), hasher=hasher, downloaded=True)


def check_files(
    folder: Path,
    *,
    links_within: Path | None = None,
    ignored: frozenset[str] = frozenset(),
    trusted_keys: Sequence[TrustedKey] = (),
    hasher: Callable[[Path], str] = sha256_file,
    downloaded: bool = False,
) -> CheckResult:
    """:func:`check_folder` for a folder that is managed elsewhere.

    Args:
        folder: The folder.
        links_within: Links that lead to somewhere inside this folder count as the files they lead to.
        ignored: Files that may exist although the report does not list them.
        trusted_keys: As for :func:`check_folder`.
        hasher: Hashes one file.
        downloaded: Whether it may hold what tools for downloading and cloning leave beside a model.

    Returns:
        The result, with all problems.

    Raises:
        RequestError: A key cannot be used.
        MissingExtraError: A key was given and ``model-signing`` is not installed.
        EnvironmentFailure: A file cannot be read.
    """
    entries = list_entries(folder)
    names, problems = list_files(folder, links_within=links_within)
    if downloaded:
        beside, wrong_beside = left_beside(folder, names)
        ignored, problems = ignored | beside, [*problems, *wrong_beside]
    if REPORT_FILE not in names:
        missing = [] if any(problem.startswith(f"{REPORT_FILE}:") for problem in problems) else ["is missing"]
        return CheckResult(folder, (*(f"{REPORT_FILE}: {text}" for text in missing), *problems), None)
    stamps = file_stamps(folder, names)
    # Report and signature are read once: what is parsed and compared below are the bytes whose signature is checked.
    data = _read(folder / REPORT_FILE)
    signed = _read(folder / SIGNATURE_FILE) if SIGNATURE_FILE in names else None
    signature = check_signature(data, signed, trusted_keys)
    report, wrong = read_report(data)
    if wrong:
        found_wrong = [*(f"{REPORT_FILE}: {text}" for text in wrong), *signature.problems]
        return CheckResult(folder, tuple(found_wrong), None, signature)
    apart = {REPORT_FILE, SIGNATURE_FILE, *ignored}
    found = hash_files(folder, (name for name in names if name not in apart), hasher)
    digests = {**found, REPORT_FILE: hashlib.sha256(data).hexdigest()}
    if signed is not None:
        digests[SIGNATURE_FILE] = hashlib.sha256(signed).hexdigest()
    problems += signature.problems
    problems += compare_digests(report["files"], found)
    problems += [f"{name}: is of a type that is never published" for name in found if not may_be_published(name)]
    problems += _not_as_scored(report, found)
    problems += _not_tested(report)
    return CheckResult(
        folder, tuple(sorted(set(problems))), report, signature, stamps=stamps, digests=digests, entries=entries
    )


def sign_folder(folder: str | Path, key: SigningKey, password: str | None = None) -> Path:
    """Check a published folder and sign its report; an older signature is replaced.

    Args:
        folder: A published folder.
        key: File of a private key on the curve P-256, P-384 or P-521 as PEM; or a Sigstore login.
        password: Of the key. By default what the environment variable ``HF_UNLEARN_KEY_PASSWORD`` holds.

    Returns:
        The signature file.

    Raises:
        RequestError: The folder is not, byte for byte, what its report says, or the key cannot be used.
        MissingExtraError: ``model-signing`` is not installed.
        EnvironmentFailure: The signature cannot be written, or Sigstore cannot be reached.
    """
    remove_half_signature(Path(folder))
    problems = [problem for problem in check_folder(folder).problems if not problem.startswith(f"{SIGNATURE_FILE}:")]
    if problems:
        raise RequestError(f"{folder} was not signed, because it does not match its report: {problems[0]}")
    return sign_report(Path(folder), key, password)


def _not_as_scored(report: dict[str, Any], found: dict[str, str]) -> list[str]:
    """Model files that are not those whose scores are in the report."""
    scored = report["models"]["unlearned"]["files"].get(report["format"] or "")
    if scored is None:
        return [f"{REPORT_FILE}: does not say which scored files this folder holds"]
    listed = report["files"]
    return [
        f"{name}: is not a file whose scores are in the report"
        for name in found
        if (is_weight_file(name) or name in scored) and listed.get(name) == found[name] != scored.get(name)
    ]


def _not_tested(report: dict[str, Any]) -> list[str]:
    """A folder in a format that was never scored carries the verdict on something else."""
    name, candidate = report["format"], report["verdict"]["candidate"]
    if name is None:
        return []
    # `gguf-q4_0@llama.cpp` is the format `gguf-q4_0` as another program runs it.
    tested = {row["transform"].partition("@")[0] for row in report["scores"] if row["model"] == candidate}
    if name in tested:
        return []
    return [f"{REPORT_FILE}: holds no score in the format {name!r} that this folder is in: it was not tested"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be read: {error.strerror}") from error
