"""From the scored files of a run to folders that can be released."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, RequestError
from ..verification.digests import folder_digests, list_files, sha256_file
from ..verification.references import IDENTITY
from ..verification.report import Report
from ..verification.report_file import REPORT_FILE, validate_report, write_report
from .benchmarks import benchmark_files
from .card import render_card
from .files import CARD_FILE, PLOT_FOLDER, is_model_file, is_weight_file, may_be_published
from .leaks import ForgetText, find_in_file
from .metadata import CardWords


@dataclass(frozen=True)
class PublishedFolder:
    """One folder that is ready to be released.

    Attributes:
        transform: ``identity`` for the main model, or the format.
        path: The folder.
        files: Path to SHA-256 of every file in it but the report.
        left_out: Files of the scored folder that are not published.
    """

    transform: str
    path: Path
    files: Mapping[str, str]
    left_out: tuple[str, ...]


def publish_to_folder(
    main_dir: Path,
    variants: Mapping[str, Path],
    report: Mapping[str, Any],
    words: CardWords,
    *,
    out_main: Path,
    out_variants: Mapping[str, Path],
    plots: Sequence[Path] = (),
    forget_texts: Iterable[tuple[str, str]] | ForgetText = (),
) -> list[PublishedFolder]:
    """Write the main model and its variants, each with its card, report and digests.

    Args:
        main_dir: Folder of the unlearned model, as it was scored.
        variants: Format to folder of that variant, as it was scored.
        report: The sealed report; ``models.unlearned.files`` holds the digests of what was scored.
        words: What only the publisher can say.
        out_main: Where the main model goes.
        out_variants: Format to where that variant goes.
        plots: Plots for the main model's card (``.png`` or ``.svg``).
        forget_texts: Prompt and answer of every forget row (or what was made of them), to make sure that no published
            text holds one.

    Returns:
        The folders, the main one first.

    Raises:
        RequestError: A place to publish to holds something else, a variant has no place, a plot is of another kind,
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
        _check_place(out)
    clean: set[str] = set()
    return [
        _publish_one(source, out, transform, report, words, plots if transform == IDENTITY else (), forget, clean)
        for transform, source, out in jobs
    ]


def _check_place(out: Path) -> None:
    """Only an earlier publication, or nothing, may be replaced."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise RequestError(f"{out} is in the way: publishing needs a folder of its own")
    if out.is_dir() and any(out.iterdir()) and not (out / REPORT_FILE).is_file():
        raise RequestError(f"{out} holds something else than a published model: name an empty folder")


def _publish_one(
    source: Path,
    out: Path,
    transform: str,
    report: Mapping[str, Any],
    words: CardWords,
    plots: Sequence[Path],
    forget: ForgetText,
    clean: set[str],
) -> PublishedFolder:
    """Fill a folder beside ``out`` and rename it into place, so that ``out`` is never half a model."""
    work = out.with_name(f".{out.name}.partial")
    try:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        left_out = _copy_model(source, work, transform, report)
        plot_names = [_copy_plot(plot, work) for plot in plots]
        (work / CARD_FILE).write_text(render_card(report, transform, words, plot_names), encoding="utf-8")
        for name, text in benchmark_files(Report.from_json(report), transform).items():
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_text(text, encoding="utf-8")
        files = folder_digests(work)
        write_report({**report, "format": transform, "files": files}, work / REPORT_FILE)
        refuse_forget_text(work, {**files, REPORT_FILE: sha256_file(work / REPORT_FILE)}, forget, clean)
        if out.exists():
            shutil.rmtree(out)
        work.replace(out)
    except OSError as error:
        raise EnvironmentFailure(
            f"{out} cannot be written ({error.strerror or error}): make room or see to its rights, then publish again"
        ) from error
    return PublishedFolder(transform, out, files, tuple(left_out))


def _copy_model(source: Path, work: Path, transform: str, report: Mapping[str, Any]) -> list[str]:
    """Copy what may be published, make sure that it is what was scored, and name what stays at home."""
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
            raise EnvironmentFailure(f"{source / name} was scored and is gone: export and evaluate again")
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
        if (is_weight_file(name) or name in scored) and sha256_file(target) != scored.get(name):
            raise EnvironmentFailure(f"{source / name} is not the file that was scored: evaluate and verify again")
    return [name for name in names if name not in wanted]


def _copy_plot(plot: Path, work: Path) -> str:
    name = f"{PLOT_FOLDER}/{plot.name}"
    if not may_be_published(name):
        raise RequestError(f"{plot} cannot be published: a plot is a .png or .svg file with a plain name")
    (work / PLOT_FOLDER).mkdir(exist_ok=True)
    shutil.copyfile(plot, work / name)
    return name


def refuse_forget_text(folder: Path, files: Mapping[str, str], forget: ForgetText, clean: set[str]) -> None:
    """Scan every text of a folder that is about to be published.

    Args:
        folder: The folder.
        files: Path to SHA-256 of what is in it.
        forget: What must not be there.
        clean: Digests of files that were scanned before (variants share their tokenizer); gets those of this folder.

    Raises:
        RequestError: One of them holds forget text. The message says where, not what.
    """
    for name, digest in files.items():
        row = None if digest in clean else find_in_file(folder / name, name, forget)
        if row is not None:
            raise RequestError(
                f"{name} would publish what was to be forgotten (forget row {row + 1}): take it out of publish.* or "
                "of the file it comes from"
            )
        clean.add(digest)
