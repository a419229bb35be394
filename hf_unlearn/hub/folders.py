"""The folders of a release: made from the scored files of a run, kept until published, and staged for the Hub.

``publish/`` and ``publish-<format>/`` of a run's folder hold what was verified. Uploads use copies in ``hub/``,
with cards that name their repositories and a signature if one is requested.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, RequestError, VerificationError
from ..reporting.results import Results
from ..reporting.sentences import verdict_reasons
from ..runtime.files import link_or_copy, whole_folder, write_private
from ..verification.digests import folder_digests, hash_files, list_files, sha256_file
from ..verification.references import IDENTITY
from ..verification.report import Report
from ..verification.report_file import REPORT_FILE, for_folder, load_report, validate_report, write_report
from .benchmarks import benchmark_files
from .card import render_card
from .check import CheckResult, check_folder
from .files import CARD_FILE, PAGE_FILE, PLOT_FOLDER, SIGNATURE_FILE, is_model_file, is_weight_file, may_be_published
from .leaks import ForgetText, find_in_file
from .metadata import CardWords
from .options import MAIN, HubOptions, branches, repo_ids
from .signatures import SigstoreLogin, sign_report

RELEASE_FILE = "release.json"
STAGING = "hub"
RUN_FILE = "run.json"
_AGAIN = "run  hf-unlearn publish RECIPE  (or run) first, with the same output folder"


@dataclass(frozen=True)
class PublishedFolder:
    """One folder that is ready to be released.

    Attributes:
        transform: ``identity`` for the main model, or the format.
        path: The folder.
        files: Path to SHA-256 of every file in it except the report.
        left_out: Files of the scored folder that are not published.
        unsigned: Whether an earlier signature was over another report, and is gone.
        card_edited: Whether the earlier card had been changed by hand, and is gone.
    """

    transform: str
    path: Path
    files: Mapping[str, str]
    left_out: tuple[str, ...]
    unsigned: bool = False
    card_edited: bool = False


@dataclass(frozen=True)
class Added:
    """What a folder shows besides its model, card and report.

    Attributes:
        plots: Plots for the card.
        page: The report as HTML; empty for none.
    """

    plots: Sequence[Path] = ()
    page: str = ""


def publish_to_folder(
    main_dir: Path,
    variants: Mapping[str, Path],
    report: Mapping[str, Any],
    words: CardWords,
    *,
    out_main: Path,
    out_variants: Mapping[str, Path],
    plots: Sequence[Path] = (),
    page: str = "",
    forget_texts: Iterable[tuple[str, str]] | ForgetText = (),
) -> list[PublishedFolder]:
    """Write the main model and its variants, each with its card, report and digests.

    None of them is replaced before all are made and searched. Signatures over the same reports are kept.

    Args:
        main_dir: Folder of the unlearned model, as it was scored.
        variants: Format to folder of that variant, as it was scored.
        report: The sealed report; ``models.unlearned.files`` holds the digests of what was scored.
        words: What only the publisher can say.
        out_main: Where the main model goes.
        out_variants: Format to where that variant goes.
        plots: Plots for the main model's card (``.png`` or ``.svg``).
        page: The report as HTML for the main model's folder; none by default.
        forget_texts: Prompt and answer of every forget row (or what was made of them), to make sure that no published
            text holds one.

    Returns:
        The folders, the main one first.

    Raises:
        RequestError: A target folder holds something else, a variant has no folder, a plot is of another type,
            the report does not fit its schema, or a published text holds forget text.
        EnvironmentFailure: A file is not the one that was scored, or cannot be copied.
    """
    validate_report(report)
    missing = sorted(variants.keys() - out_variants.keys())
    if missing:
        raise RequestError(f"there is no folder to publish the variant {missing[0]!r} to")
    forget = forget_texts if isinstance(forget_texts, ForgetText) else ForgetText(forget_texts)
    jobs = [(IDENTITY, main_dir, out_main), *((name, variants[name], out_variants[name]) for name in variants)]
    for _, _, out in jobs:
        check_place(out)
    clean: set[str] = set()
    with ExitStack() as stack:
        made = []
        for transform, source, out in jobs:
            try:
                work = stack.enter_context(whole_folder(out, _hidden(out)))
                added = Added(plots, page) if transform == IDENTITY else Added()
                made.append(_publish_one(source, out, work, transform, report, words, added, forget, clean))
            except OSError as error:
                raise _not_written(out, error) from error
        try:
            stack.close()
        except OSError as error:
            raise _not_written(out_main.parent, error) from error
    return made


def _not_written(out: Path, error: OSError) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{out} cannot be written ({error.strerror or error}): make room or check its permissions, then publish again"
    )


def check_place(out: Path) -> None:
    """Only an earlier publication, or nothing, may be replaced.

    Raises:
        RequestError: There is something else.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise RequestError(f"{out} is not a folder: remove it, publishing writes a folder there")
    if out.is_dir() and any(out.iterdir()) and not (out / REPORT_FILE).is_file():
        raise RequestError(f"{out} holds something other than a published model: choose an empty folder")


def _publish_one(
    source: Path,
    out: Path,
    work: Path,
    transform: str,
    report: Mapping[str, Any],
    words: CardWords,
    added: Added,
    forget: ForgetText,
    clean: set[str],
) -> PublishedFolder:
    left_out = _copy_model(source, work, transform, report)
    plot_names = [_copy_plot(plot, work) for plot in added.plots]
    if added.page:
        (work / PAGE_FILE).write_text(added.page, encoding="utf-8")
    (work / CARD_FILE).write_text(
        render_card(report, transform, words, plot_names, has_page=bool(added.page)), encoding="utf-8"
    )
    for name, text in benchmark_files(Report.from_json(report), transform).items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(text, encoding="utf-8")
    files = folder_digests(work)
    write_report({**report, "format": transform, "files": files}, work / REPORT_FILE)
    _refuse_forget_text(work, {**files, REPORT_FILE: sha256_file(work / REPORT_FILE)}, forget, clean)
    kept = _keep_signature(out, work)
    unsigned = not kept and (out / SIGNATURE_FILE).is_file()
    return PublishedFolder(transform, out, files, tuple(left_out), unsigned, card_was_edited(out))


def card_was_edited(folder: Path) -> bool:
    """Whether the card of a published folder is another one than its report lists: somebody changed it by hand."""
    card, report = folder / CARD_FILE, folder / REPORT_FILE
    if not card.is_file() or not report.is_file():
        return False
    try:
        listed = json.loads(report.read_text(encoding="utf-8"))["files"][CARD_FILE]
    except (ValueError, KeyError, TypeError):
        return False  # a broken report tells nothing of its card
    return bool(listed != sha256_file(card))


def edited_card_words(folder: Path) -> str:
    """What to say of a card that was changed by hand, when it is written anew."""
    return (
        f"{folder / CARD_FILE} had been edited by hand and is written anew, because the report lists its digest: what "
        "can be chosen in it is set under publish in the recipe"
    )


def _hidden(folder: Path) -> Path:
    """Where a folder is filled: a half-filled one must not look like a model."""
    return folder.with_name(f".{folder.name}.partial")


def _copy_model(source: Path, work: Path, transform: str, report: Mapping[str, Any]) -> list[str]:
    """Copy what may be published, make sure that it is what was scored, and list what is left out."""
    scored = report["models"]["unlearned"]["files"].get(transform)
    if not scored:
        raise EnvironmentFailure(f"the report has no digests of the scored {transform!r} files: verify again")
    names, problems = list_files(source)
    if problems:
        raise EnvironmentFailure(f"{source}: {problems[0]}")
    wanted = sorted({name for name in (*names, *scored) if is_model_file(name)})
    if not any(is_weight_file(name) for name in wanted):
        raise EnvironmentFailure(
            f"{source} holds no weights (safetensors, or one .gguf file): there is nothing to publish"
        )
    for name in wanted:
        if name not in names:
            raise EnvironmentFailure(f"{source / name} was scored and no longer exists: export and evaluate again")
        if name not in scored:
            raise EnvironmentFailure(f"{source / name} was not there when the model was scored: remove it")
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
        if sha256_file(target) != scored[name]:
            raise EnvironmentFailure(f"{source / name} is not the file that was scored: evaluate and verify again")
    return [name for name in names if name not in wanted]


def _copy_plot(plot: Path, work: Path) -> str:
    name = f"{PLOT_FOLDER}/{plot.name}"
    if not may_be_published(name):
        raise RequestError(f"{plot} cannot be published: a plot is a .png or .svg file with a plain name")
    (work / PLOT_FOLDER).mkdir(exist_ok=True)
    shutil.copyfile(plot, work / name)
    return name


def _refuse_forget_text(folder: Path, files: Mapping[str, str], forget: ForgetText, clean: set[str]) -> None:
    """Scan every text of a folder that is about to be published.

    Args:
        folder: The folder.
        files: Path to SHA-256 of what is in it.
        forget: Text that must not be in it.
        clean: Digests of files that were scanned before (variants share their tokenizer); gets those of this folder.

    Raises:
        RequestError: One of them holds forget text. The message says where, but not what.
    """
    for name, digest in files.items():
        row = None if digest in clean else find_in_file(folder / name, name, forget)
        if row is not None:
            raise RequestError(
                f"{name} would publish what was to be forgotten (forget row {row + 1}): remove it from publish.* or "
                "from the file it comes from"
            )
        clean.add(digest)


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
        card_edited: Whether the card of an earlier staging had been changed by hand, and is gone.
    """

    transform: str
    repo_id: str
    branch: str
    folder: Path
    files: Mapping[str, str]
    card_edited: bool = False


def write_release(run: Path, words: CardWords, formats: Sequence[str], forget: ForgetText) -> None:
    """Keep what a later publication needs: the data files may be gone by then.

    The forget set is kept as keyed hashes of its runs of words, with their key. This file allows testing guesses of
    what was forgotten, as does the report's salt next to it; it is never uploaded.

    Args:
        run: The run's output folder.
        words: What the cards say besides the report.
        formats: The variants.
        forget: The forget set.
    """
    record = {"words": asdict(words), "formats": list(formats), "forget": forget.to_dict()}
    write_private(run / RELEASE_FILE, json.dumps(record))


def refuse_unfinished(run: Path) -> None:
    """Make sure that a folder is that of a finished run. Nothing is written there.

    Raises:
        RequestError: It is not.
    """
    if not run.is_dir():
        raise RequestError(f"{run} is not a folder")
    if not (run / RUN_FILE).is_file():
        raise RequestError(f"{run} is not the output folder of a run (it has no {RUN_FILE})")
    for name in (f"verify/{REPORT_FILE}", RELEASE_FILE, "publish"):
        if not (run / name).exists():
            raise RequestError(f"{run} is not finished (it has no {name}): {_AGAIN}")


def read_release(run: Path) -> Release:
    """What a run's output folder has to publish.

    Raises:
        RequestError: It is not a finished run, or what is to be published is not (or no longer) what was verified.
    """
    refuse_unfinished(run)
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
    # Hashing releases the interpreter, which reads the report meanwhile.
    with ThreadPoolExecutor(max_workers=1) as beside:
        hashing = beside.submit(_digests, run, tuple(folders.values()))
        report = load_report(run / "verify" / REPORT_FILE)
        digests = hashing.result()
    checked = {transform: _checked(folder, transform, report, digests) for transform, folder in folders.items()}
    return Release(run, report, release_words, folders, checked, forget)


def refuse_not_passed(report: Mapping[str, Any]) -> None:
    """Only a model that passed, with correctly judged controls, is published by default.

    Raises:
        VerificationError: The verdict is not *passed*, or a control did not come out as it must.
    """
    status = report["verdict"]["status"]
    ask = "to publish it anyway, use --allow-not-passed (the card says so at the top)"
    if status != "passed":
        reasons = verdict_reasons(Results(report))
        why = f": {reasons[0].rstrip('.')}" if reasons else ""
        raise VerificationError(f"nothing was published, because the verdict is {status}{why}; {ask}")
    wrong = [control["name"] for control in report["controls"] if not control["ok"]]
    if wrong:
        raise VerificationError(
            f"nothing was published, because the verdict is not reliable: the control {wrong[0]!r} did not come out "
            f"as it must; {ask}"
        )


def stage(release: Release, options: HubOptions) -> list[Staged]:
    """Write the folders as they go to the Hub, with cards that name their repositories.

    They are in ``hub/`` of the run's folder; weights are links to those of ``publish/``. Staging again gives the
    same bytes, and keeps a valid signature.

    Returns:
        The folders, variants first.

    Raises:
        RequestError: A name does not fit the Hub, or a text holds forget text.
        EnvironmentFailure: A folder cannot be written.
    """
    formats = [name for name in release.folders if name != IDENTITY]
    repos, branch_of = {IDENTITY: options.repo_id}, {IDENTITY: MAIN}
    if options.branches:
        repos |= dict.fromkeys(formats, options.repo_id)
        branch_of |= branches(formats)
        words = replace(release.words, repo_id=options.repo_id, variant_revisions=branches(formats))
    else:
        repos |= repo_ids(options.repo_id, formats)
        branch_of |= dict.fromkeys(formats, MAIN)
        variants = {name: repos[name] for name in formats}
        words = replace(release.words, repo_id=options.repo_id, variant_repo_ids=variants)
    clean: set[str] = set()
    staged = []
    # Cards do not show what differs between the reports of the folders.
    results = Results(release.report)
    # None is replaced before all are made and searched: what is refused leaves no draft.
    with ExitStack() as stack:
        for transform, checked in release.checked.items():
            branch = branch_of[transform]
            at = "" if branch == MAIN else f"@{branch}"
            folder = release.run / STAGING / f"{repos[transform]}{at}"
            try:
                work = stack.enter_context(whole_folder(folder, _hidden(folder)))
                files = _stage_one(checked, folder, work, words, options, results)
                _refuse_forget_text(work, files, release.forget, clean)
                edited = card_was_edited(folder)
            except OSError as error:
                raise _not_staged(folder, error) from error
            staged.append(Staged(transform, repos[transform], branch, folder, files, edited))
        try:
            stack.close()
        except OSError as error:
            raise _not_staged(release.run / STAGING, error) from error
    return staged


def _not_staged(folder: Path, error: OSError) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{folder} cannot be written ({error.strerror or error}): make room or check its permissions, then run the "
        "same command again"
    )


def _digests(run: Path, folders: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of every plain file in the folders, hashed in parallel: a folder usually has one large file."""
    names = [f"{folder.name}/{name}" for folder in folders if folder.is_dir() for name in list_files(folder)[0]]
    return {run / name: digest for name, digest in hash_files(run, names).items()}


def _checked(folder: Path, transform: str, report: Mapping[str, Any], digests: Mapping[Path, str]) -> CheckResult:
    """A folder that matches its own report and the run's report.

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
    """What is only made to be scored, such as weights with noise, must not be published.

    Raises:
        RequestError: ``transform`` is of that type.
    """
    from ..quantization import FORMATS

    if transform == IDENTITY or transform.partition("@")[0] not in FORMATS.names():
        return
    if not getattr(FORMATS.get(transform).value, "published", True):
        raise RequestError(f"{transform} is made to be scored, not to be published: leave it out of publish.formats")


def _stage_one(
    checked: CheckResult, folder: Path, work: Path, words: CardWords, options: HubOptions, results: Results
) -> dict[str, str]:
    """Fill one folder; digests of all its files."""
    assert checked.report is not None
    report, source = checked.report, checked.folder
    files = dict(report["files"])
    for name in files:
        if not may_be_published(name):
            raise RequestError(f"{source / name} is of a type that is never published: {_AGAIN}")
        if name != CARD_FILE:
            link_or_copy(source / name, work / name)
    plots = [name for name in files if name.startswith(f"{PLOT_FOLDER}/")]
    card = render_card(report, report["format"], words, plots, results, has_page=PAGE_FILE in files).encode("utf-8")
    (work / CARD_FILE).write_bytes(card)
    files[CARD_FILE] = hashlib.sha256(card).hexdigest()
    # All of it except one digest has just been checked against the schema.
    sealed = {REPORT_FILE: for_folder(report, files)}
    (work / REPORT_FILE).write_bytes(sealed[REPORT_FILE])
    _keep_signature(folder, work)
    _sign(work, options)
    if (work / SIGNATURE_FILE).exists():
        sealed[SIGNATURE_FILE] = (work / SIGNATURE_FILE).read_bytes()
    return {**files, **{name: hashlib.sha256(data).hexdigest() for name, data in sealed.items()}}


def _keep_signature(before: Path, work: Path) -> bool:
    """A signature over the same bytes is still valid, and a new one would cause a new commit; whether it was kept."""
    old, report = before / SIGNATURE_FILE, before / REPORT_FILE
    if not old.is_file() or not report.is_file() or report.read_bytes() != (work / REPORT_FILE).read_bytes():
        return False
    shutil.copyfile(old, work / SIGNATURE_FILE)
    return True


def _sign(work: Path, options: HubOptions) -> None:
    """Sign as requested, unless there is a signature over these bytes."""
    key = options.private_key or (SigstoreLogin() if options.sigstore else None)
    if key is not None and not (work / SIGNATURE_FILE).exists():
        sign_report(work, key)
