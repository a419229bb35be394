"""Is a published folder, byte for byte, what its report says?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, RequestError
from ..verification.digests import compare_digests, hash_files, list_files
from ..verification.report import REPORT_FILE, report_problems
from .files import is_weight_file, may_be_published


@dataclass(frozen=True)
class CheckResult:
    """What was found in a published folder.

    Attributes:
        folder: The folder.
        problems: One sentence per problem, each beginning with the file it is about; empty if every file is what
            the report says.
        report: The report; ``None`` if it is missing or was changed.
    """

    folder: Path
    problems: tuple[str, ...]
    report: dict[str, Any] | None

    @property
    def intact(self) -> bool:
        """Whether every file is what the report says."""
        return not self.problems

    @property
    def status(self) -> str | None:
        """The verdict's status; ``None`` if the report cannot be trusted."""
        return None if self.report is None else str(self.report["verdict"]["status"])


def check_folder(path: str | Path) -> CheckResult:
    """Compare every file of a published folder with its report.

    Finds every file that was changed (one byte is enough, the report itself included), removed or added, and whatever
    is not a plain file. It does not tell *who* wrote the report: someone who replaces the files and writes a new
    report to match is found only by a signature.

    Args:
        path: The folder.

    Returns:
        The result, with all problems.

    Raises:
        RequestError: There is no such folder, or it holds neither a report nor a model.
        EnvironmentFailure: A file cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder")
    if not (folder / REPORT_FILE).exists() and not (folder / "config.json").exists():
        inner = folder / "publish"
        where = f": a run publishes to {inner}" if inner.is_dir() else ""
        raise RequestError(f"{folder} holds no published model (neither {REPORT_FILE} nor config.json){where}")
    return check_files(folder)


def check_files(
    folder: Path, *, links_within: Path | None = None, ignored: frozenset[str] = frozenset()
) -> CheckResult:
    """:func:`check_folder` for a folder that something else manages.

    Args:
        folder: The folder.
        links_within: Links that lead to somewhere inside this folder count as the files they lead to.
        ignored: Files that may be there although the report does not know them.

    Returns:
        The result, with all problems.

    Raises:
        EnvironmentFailure: A file cannot be read.
    """
    names, problems = list_files(folder, links_within=links_within)
    if REPORT_FILE not in names:
        missing = [] if any(problem.startswith(f"{REPORT_FILE}:") for problem in problems) else ["is missing"]
        return CheckResult(folder, (*(f"{REPORT_FILE}: {text}" for text in missing), *problems), None)
    data = _read(folder / REPORT_FILE)
    wrong = report_problems(data)
    if wrong:
        return CheckResult(folder, tuple(f"{REPORT_FILE}: {text}" for text in wrong), None)
    # The file was read once: what is parsed here is what was checked.
    report: dict[str, Any] = json.loads(data)
    found = hash_files(folder, (name for name in names if name != REPORT_FILE and name not in ignored))
    problems += compare_digests(report["files"], found)
    problems += [f"{name}: is of a kind that is never published" for name in found if not may_be_published(name)]
    problems += _not_as_scored(report, found)
    return CheckResult(folder, tuple(sorted(set(problems))), report)


def _not_as_scored(report: dict[str, Any], found: dict[str, str]) -> list[str]:
    """Model files that are not those whose scores stand in the report."""
    scored = report["models"]["unlearned"]["files"].get(report["format"] or "")
    if scored is None:
        return [f"{REPORT_FILE}: does not say which scored files this folder holds"]
    listed = report["files"]
    return [
        f"{name}: is not a file whose scores stand in the report"
        for name in found
        if (is_weight_file(name) or name in scored) and listed.get(name) == found[name] != scored.get(name)
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be read: {error.strerror}") from error
