"""What a finished run leaves for its publication, and the folders that go to the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, RequestError, VerificationError
from ..reporting.results import Results
from ..verification.digests import hash_files, list_files, sha256_file
from ..verification.references import IDENTITY
from ..verification.report_file import REPORT_FILE, for_folder, load_report
from . import repo_names
from .card import render_card
from .check import CheckResult, check_folder
from .files import CARD_FILE, PLOT_FOLDER, SIGNATURE_FILE, may_be_published
from .folders import refuse_forget_text
from .leaks import ForgetText
from .metadata import CardWords
from .options import MAIN, HubOptions

RELEASE_FILE = "release.json"
STAGING = "hub"
RUN_FILE = "run.json"
_AGAIN = "run  hf-unlearn publish RECIPE  (or run) first, with the same output folder"


@dataclass(frozen=True)
class Release:
    """A finished run, ready to be published.

    Attributes:
        run: The run's output folder.
        report: Its report.
        words: What the cards say besides.
        folders: Transform to its published folder, the main model's (``identity``) last.
        checked: Transform to what the check of that folder found: nothing wrong.
        forget: The forget set, as hashes.
    """

    run: Path
    report: Mapping[str, Any]
    words: CardWords
    folders: Mapping[str, Path]
    checked: Mapping[str, CheckResult]
    forget: ForgetText


@dataclass(frozen=True)
class Staged:
    """One folder as it goes to the Hub.

    Attributes:
        transform: ``identity`` or the format.
        repo_id: Repository.
        branch: Branch of it.
        folder: The folder.
        files: Path to SHA-256 of every file in it, all of which are uploaded.
    """

    transform: str
    repo_id: str
    branch: str
    folder: Path
    files: Mapping[str, str]


def write_release(run: Path, words: CardWords, formats: Sequence[str], forget: ForgetText) -> None:
    """Keep what a later publication needs: the data files may be gone by then.

    The forget set is kept as keyed hashes of its runs of words, with their key. Who has this file can test guesses of
    what was forgotten, as with the report's salt beside it; it is never uploaded.

    Args:
        run: The run's output folder.
        words: What the cards say besides the report.
        formats: The variants.
        forget: The forget set.
    """
    record = {"words": asdict(words), "formats": list(formats), "forget": forget.to_dict()}
    partial = run / f"{RELEASE_FILE}.partial"
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.chmod(0o600)
    os.replace(partial, run / RELEASE_FILE)


def read_release(run: Path) -> Release:
    """What there is to publish in a run's output folder.

    Raises:
        RequestError: It is no finished run, or what is to be published is not (any more) what was verified.
    """
    if not (run / RUN_FILE).is_file():
        raise RequestError(f"{run} is not the output folder of a run (it has no {RUN_FILE})")
    for name in (f"verify/{REPORT_FILE}", RELEASE_FILE, "publish"):
        if not (run / name).exists():
            raise RequestError(f"{run} is not finished (it has no {name}): {_AGAIN}")
    try:
        record = json.loads((run / RELEASE_FILE).read_text(encoding="utf-8"))
        words = dict(record["words"])
        words["language"] = tuple(words.get("language") or ())
        release_words = CardWords(**words)
        forget = ForgetText.from_dict(record["forget"])
        formats = [str(name) for name in record["formats"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{run / RELEASE_FILE} is not readable: {_AGAIN}") from error
    folders = {**{name: run / f"publish-{name}" for name in formats}, IDENTITY: run / "publish"}
    # Hashing leaves the interpreter free to read the report.
    with ThreadPoolExecutor(max_workers=1) as beside:
        hashing = beside.submit(_digests, run, tuple(folders.values()))
        report = load_report(run / "verify" / REPORT_FILE)
        digests = hashing.result()
    checked = {transform: _checked(folder, transform, report, digests) for transform, folder in folders.items()}
    return Release(run, report, release_words, folders, checked, forget)


def refuse_not_passed(report: Mapping[str, Any]) -> None:
    """Only what passed a gate that works is published without being asked for.

    Raises:
        VerificationError: The verdict is not *passed*, or a control did not come out as it must.
    """
    status = report["verdict"]["status"]
    ask = "if others are to have it all the same, say --allow-not-passed (the card will say so first)"
    if status != "passed":
        reasons = report["verdict"]["reasons"]
        why = f": {reasons[0]}" if reasons else ""
        raise VerificationError(f"nothing was published, for the verdict is {status}{why}; {ask}")
    wrong = [control["name"] for control in report["controls"] if not control["ok"]]
    if wrong:
        raise VerificationError(
            f"nothing was published, for the verdict cannot be relied on: the control {wrong[0]!r} did not come out "
            f"as it must; {ask}"
        )


def stage(release: Release, options: HubOptions) -> list[Staged]:
    """Write the folders as they go to the Hub, with cards that know their repositories.

    They stand in ``hub/`` of the run's folder; weights are links to those of ``publish/``. Staging again gives the
    same bytes, and keeps a signature that fits them.

    Returns:
        The folders, variants first.

    Raises:
        RequestError: A name does not fit the Hub, or a text holds forget text.
        EnvironmentFailure: A folder cannot be written.
    """
    formats = [name for name in release.folders if name != IDENTITY]
    repos, branches = {IDENTITY: options.repo_id}, {IDENTITY: MAIN}
    if options.branches:
        repos |= dict.fromkeys(formats, options.repo_id)
        branches |= repo_names.branches(formats)
        words = replace(release.words, repo_id=options.repo_id, variant_revisions=repo_names.branches(formats))
    else:
        repos |= repo_names.repo_ids(options.repo_id, formats)
        branches |= dict.fromkeys(formats, MAIN)
        variants = {name: repos[name] for name in formats}
        words = replace(release.words, repo_id=options.repo_id, variant_repo_ids=variants)
    clean: set[str] = set()
    staged = []
    # Cards say nothing of what differs between the reports of the folders.
    results = Results(release.report)
    for transform, checked in release.checked.items():
        branch = branches[transform]
        at = "" if branch == MAIN else f"@{branch}"
        folder = release.run / STAGING / f"{repos[transform]}{at}"
        try:
            files = _stage_one(checked, folder, words, options, results)
        except OSError as error:
            raise EnvironmentFailure(
                f"{folder} cannot be written ({error.strerror or error}): make room or see to its rights, then run "
                "the same command again"
            ) from error
        refuse_forget_text(folder, files, release.forget, clean)
        staged.append(Staged(transform, repos[transform], branch, folder, files))
    return staged


def _digests(run: Path, folders: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of every plain file in the folders, hashed side by side: one folder has one large file as a rule."""
    repo_names = [f"{folder.name}/{name}" for folder in folders if folder.is_dir() for name in list_files(folder)[0]]
    return {run / name: digest for name, digest in hash_files(run, repo_names).items()}


def _checked(folder: Path, transform: str, report: Mapping[str, Any], digests: Mapping[Path, str]) -> CheckResult:
    """A folder that is what its report says, and what the run's report says.

    Raises:
        RequestError: It is not.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is not there: {_AGAIN}")
    _refuse_unpublished(transform)
    result = check_folder(folder, hasher=lambda path: digests.get(path) or sha256_file(path))
    if result.problems or result.report is None:
        raise RequestError(f"{folder} is not what was verified ({result.problems[0]}): {_AGAIN}")
    own = ("digest", "files", "format")
    same = all(result.report.get(key) == value for key, value in report.items() if key not in own)
    if not same or result.report["format"] != transform:
        raise RequestError(f"{folder} was made from another report than {REPORT_FILE} in verify: {_AGAIN}")
    return result


def _refuse_unpublished(transform: str) -> None:
    """What is only made to be scored, such as weights with noise, is not for anybody to use.

    Raises:
        RequestError: ``transform`` is such a thing.
    """
    from ..quantization import FORMATS

    if transform == IDENTITY or transform.partition("@")[0] not in FORMATS.names():
        return
    if not getattr(FORMATS.get(transform).value, "published", True):
        raise RequestError(f"{transform} is made to be scored, not to be published: leave it out of publish.formats")


def _stage_one(
    checked: CheckResult, folder: Path, words: CardWords, options: HubOptions, results: Results
) -> dict[str, str]:
    """Fill a folder beside its place and rename it; digests of all its files."""
    assert checked.report is not None
    report, source = checked.report, checked.folder
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    files = dict(report["files"])
    for name in files:
        if not may_be_published(name):
            raise RequestError(f"{source / name} is of a kind that is never published: {_AGAIN}")
        if name != CARD_FILE:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            _place(source / name, work / name)
    plots = [name for name in files if name.startswith(f"{PLOT_FOLDER}/")]
    card = render_card(report, report["format"], words, plots, results).encode("utf-8")
    (work / CARD_FILE).write_bytes(card)
    files[CARD_FILE] = hashlib.sha256(card).hexdigest()
    # All of it but one digest has just been checked against the schema.
    sealed = {REPORT_FILE: for_folder(report, files)}
    (work / REPORT_FILE).write_bytes(sealed[REPORT_FILE])
    _keep_signature(folder, work)
    _sign(work, options)
    if folder.exists():
        shutil.rmtree(folder)
    work.replace(folder)
    if (folder / SIGNATURE_FILE).exists():
        sealed[SIGNATURE_FILE] = (folder / SIGNATURE_FILE).read_bytes()
    return {**files, **{name: hashlib.sha256(data).hexdigest() for name, data in sealed.items()}}


def _place(source: Path, target: Path) -> None:
    """A second name for a file where the file system can do that, otherwise a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _keep_signature(before: Path, work: Path) -> None:
    """A signature over the same bytes is still good, and a new one would be a new commit."""
    old = before / SIGNATURE_FILE
    if old.is_file() and (before / REPORT_FILE).read_bytes() == (work / REPORT_FILE).read_bytes():
        shutil.copyfile(old, work / SIGNATURE_FILE)


def _sign(work: Path, options: HubOptions) -> None:
    """Sign as asked, unless a signature over these bytes is there."""
    from .signing import SigstoreLogin, sign_report

    key = options.private_key or (SigstoreLogin() if options.sigstore else None)
    if key is not None and not (work / SIGNATURE_FILE).exists():
        sign_report(work, key)
