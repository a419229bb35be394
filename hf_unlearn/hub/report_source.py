"""Where a report is: in a run's folder, in a published folder, in a repository on the Hub, or a file by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..verification.report_file import REPORT_FILE, read_report
from .files import PAGE_FILE
from .metadata import is_hub_id
from .snapshot import fetch_snapshot


@dataclass(frozen=True)
class FoundReport:
    """A report, and where its page goes by default.

    Attributes:
        document: The report as JSON has it.
        page: Next to the stages of a run; anywhere else in the current folder, because a published folder holds only
            what its report lists.
    """

    document: dict[str, Any]
    page: Path


def find_report(where: str, revision: str | None = None) -> FoundReport:
    """Read the report of a run, of a published folder, of a repository, or a report file.

    Only the report is read: whether the other files are what it says, ``hf-unlearn check`` tells.

    Args:
        where: A folder, a file, or the id of a model on the Hub, of which only the report is fetched.
        revision: Branch, tag or commit on the Hub.

    Raises:
        RequestError: There is no report, or it was changed after it was written.
        EnvironmentFailure: The Hub cannot be reached.
    """
    path = Path(where)
    if path.exists() and revision is not None:
        raise RequestError(f"{where} is not on the Hub: it has no revision {revision!r}")
    if path.is_file():
        return FoundReport(_read(path), Path(PAGE_FILE))
    if path.is_dir():
        return _in_folder(path)
    if not is_hub_id(where):
        raise RequestError(f"{where} is no folder, no file, and no id of a model on the Hub")
    folder = fetch_snapshot(where, revision, only=REPORT_FILE).folder
    if not (folder / REPORT_FILE).is_file():
        raise RequestError(f"{where} has no {REPORT_FILE}: only models that were published with one have a page")
    return FoundReport(_read(folder / REPORT_FILE), _here(where.rpartition("/")[2]))


def _here(name: str) -> Path:
    return Path(f"{name}-{PAGE_FILE}")


def report_in(folder: Path) -> Path | None:
    """The report file of a published folder, or of a run's folder; ``None`` if there is none."""
    places = (folder / REPORT_FILE, folder / "verify" / REPORT_FILE)
    return next((place for place in places if place.is_file()), None)


def _in_folder(folder: Path) -> FoundReport:
    found = report_in(folder)
    if found is not None:
        of_a_run = found.parent != folder
        return FoundReport(_read(found), folder / PAGE_FILE if of_a_run else _here(folder.resolve().name))
    unfinished = " (the run has not come to its verify stage)" if (folder / "run.json").is_file() else ""
    raise RequestError(f"{folder} has no {REPORT_FILE}{unfinished}: name a finished run or a published folder")


def _read(path: Path) -> dict[str, Any]:
    """An intact report, of any version: what this version does not know of it is left out of the page."""
    try:
        document, problems = read_report(path.read_bytes())
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
    if not document:
        raise RequestError(f"{path}: {problems[0]}")
    return document
