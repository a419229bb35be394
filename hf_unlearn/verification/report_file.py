"""``unlearning_report.json``: the one way it is written, its seal, its schema, and reading it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ..errors import RequestError

REPORT_FILE = "unlearning_report.json"
SCHEMA_PATH = Path(__file__).with_name("unlearning_report.schema.json")


def canonical(report: Mapping[str, Any]) -> bytes:
    """The one way a report is written: sorted keys, two spaces, a line break at the end.

    Raises:
        ValueError: It holds a number that is not finite.
    """
    text = json.dumps(report, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def _compact(report: Mapping[str, Any]) -> str:
    """The same content on one line, which is written several times as fast."""
    return json.dumps(report, sort_keys=True, ensure_ascii=False, allow_nan=False)


def seal(report: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose ``digest`` is the SHA-256 of its canonical bytes without that key.

    The digest finds a report that was changed by accident or in passing. Who changes a report on purpose can
    compute a new one: only a signature shows who wrote it.
    """
    plain = json.loads(_compact({key: value for key, value in report.items() if key != "digest"}))
    return {**plain, "digest": digest_of(plain)}


def digest_of(report: Mapping[str, Any]) -> str:
    """The digest of a report that was read from JSON: see :func:`seal`."""
    return hashlib.sha256(canonical({key: value for key, value in report.items() if key != "digest"})).hexdigest()


def report_problems(data: bytes) -> list[str]:
    """What is wrong with the bytes of a report file.

    Args:
        data: The file's bytes.

    Returns:
        Sentences; empty if it is whole: canonical bytes, the right digest, and as the schema wants it.
    """
    return read_report(data)[1]


def read_report(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """A report from the bytes of its file, and what is wrong with them.

    Args:
        data: The file's bytes.

    Returns:
        The report, and sentences as from :func:`report_problems`; nothing of a report with problems is to be relied
        on.
    """
    try:
        report = json.loads(data)
    except (ValueError, RecursionError):
        return {}, ["is not readable JSON"]
    if not isinstance(report, dict):
        return {}, ["is not a report"]
    try:
        intact = canonical(report) == data and digest_of(report) == report.get("digest")
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        return {}, ["was changed after it was written (its digest or layout does not fit)"]
    return report, schema_problems(report)


def for_folder(report: Mapping[str, Any], files: Mapping[str, str]) -> bytes:
    """The bytes of a report with another list of files, sealed.

    Args:
        report: A whole report.
        files: The new list.
    """
    return canonical(seal({**report, "files": dict(files)}))


# What differs between the reports of one release's folders, with values that the schema takes.
_OWN_OF_A_FOLDER: Mapping[str, Any] = {"digest": "0" * 64, "files": {}, "format": None}


def schema_problems(report: Mapping[str, Any]) -> list[str]:
    """Where a report differs from the schema; empty if nowhere."""
    own = {key: value for key, value in _OWN_OF_A_FOLDER.items() if key in report}
    try:
        shared = _compact({**report, **own})
    except (ValueError, TypeError):
        return list(_errors(_validator(), report))
    # The folders of one release carry the same report but for these keys: what they share is checked once.
    return sorted([*_shared_problems(shared), *_errors(_own_validator(), report)])


@lru_cache(maxsize=16)
def _shared_problems(shared: str) -> tuple[str, ...]:
    return _errors(_validator(), json.loads(shared))


def _errors(validator: Any, report: Mapping[str, Any]) -> tuple[str, ...]:
    errors = sorted(validator.iter_errors(dict(report)), key=lambda error: list(map(str, error.absolute_path)))
    return tuple(f"{'.'.join(map(str, error.absolute_path)) or 'report'}: {error.message[:200]}" for error in errors)


def validate_report(report: Mapping[str, Any]) -> None:
    """Check a report against the schema in the package.

    Raises:
        RequestError: It does not fit; the message names the first place.
    """
    problems = schema_problems(report)
    if problems:
        raise RequestError(f"the report does not fit the schema: {problems[0]}")


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Seal, validate and write a report.

    Raises:
        RequestError: It does not fit the schema.
    """
    sealed = seal(report)
    validate_report(sealed)
    path.write_bytes(canonical(sealed))


def load_report(path: Path) -> dict[str, Any]:
    """Read a report file and check that it is whole.

    Raises:
        RequestError: There is no such file, or it was changed, or it does not fit the schema.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read as a report: {error.strerror}") from error
    report, problems = read_report(data)
    if problems:
        raise RequestError(f"{path} {problems[0]}")
    return report


@cache
def _validator() -> Any:
    import jsonschema

    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


@cache
def _own_validator() -> Any:
    schema = _validator().schema
    properties = {key: schema["properties"][key] for key in _OWN_OF_A_FOLDER}
    return _validator().evolve(schema={"$defs": schema["$defs"], "properties": properties})
