"""``unlearning_report.json``: the one way it is written, its seal, its schema, and reading it again."""

from __future__ import annotations

import hashlib
import json
import re
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


def seal(report: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose ``digest`` is the SHA-256 of its canonical bytes without that key.

    The digest finds a report that was changed by accident or in passing. Who changes a report on purpose can
    compute a new one: only a signature tells who wrote it.
    """
    plain = json.loads(canonical({key: value for key, value in report.items() if key != "digest"}))
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
    shared = _shared_part(data, report)
    try:
        # Both ways find the same; the first writes and validates what the folders of a release share only once.
        if shared is not None:
            intact = _is_canonical(shared) and hashlib.sha256(_without_digest(data)).hexdigest() == report["digest"]
        else:
            intact = canonical(report) == data and digest_of(report) == report.get("digest")
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        return {}, ["was changed after it was written (its digest or layout does not fit)"]
    return report, schema_problems(report) if shared is None else _schema_problems(shared, report)


def for_folder(report: Mapping[str, Any], data: bytes, files: Mapping[str, str]) -> bytes:
    """The bytes of a report with another list of files, sealed: what is neither of both is taken over as it is.

    Args:
        report: A whole report.
        data: Its bytes.
        files: The new list.
    """
    if _shared_part(data, report) is None:
        return canonical(seal({**report, "files": dict(files)}))
    changed = _with_entries(data, {"files": dict(files)})
    digest = hashlib.sha256(_without_digest(changed)).hexdigest()
    return _with_entries(changed, {"digest": digest})


def schema_problems(report: Mapping[str, Any]) -> list[str]:
    """Where a report differs from the schema; empty if nowhere."""
    try:
        shared = canonical({**report, **{key: value for key, value in _OWN_OF_A_FOLDER.items() if key in report}})
    except (ValueError, TypeError):
        return list(_errors(_validator(), report))
    return _schema_problems(shared, report)


def _schema_problems(shared: bytes, report: Mapping[str, Any]) -> list[str]:
    # The folders of one release carry the same report but for these keys: what they share is checked once.
    return sorted([*_shared_problems(shared), *_errors(_own_validator(), report)])


# What differs between the reports of one release's folders, with values that the schema takes.
_OWN_OF_A_FOLDER: Mapping[str, Any] = {"digest": "0" * 64, "files": {}, "format": None}
# One of them in canonical bytes, with all its lines: what is deeper stands four spaces in, and no text holds a break.
_ENTRY = re.compile(rb'^  "(digest|files|format)": (?:[^\n]*,|\{\n(?:    [^\n]*\n)*  \},)\n', re.MULTILINE)


def _with_entries(data: bytes, values: Mapping[str, Any]) -> bytes:
    """Canonical bytes with other values for keys of :data:`_OWN_OF_A_FOLDER`."""

    def written(entry: re.Match[bytes]) -> bytes:
        key = entry[1].decode()
        return canonical({key: values[key]})[2:-3] + b",\n" if key in values else entry[0]

    return _ENTRY.sub(written, data)


def _without_digest(data: bytes) -> bytes:
    return _ENTRY.sub(lambda entry: b"" if entry[1] == b"digest" else entry[0], data)


def _shared_part(data: bytes, report: Mapping[str, Any]) -> bytes | None:
    """A report's bytes with the values of :data:`_OWN_OF_A_FOLDER`.

    If they are canonical, so is ``data``. ``None`` where that cannot be told from here.

    Args:
        data: The report's bytes.
        report: What was read from them.
    """
    own = {key: report[key] for key in _OWN_OF_A_FOLDER if key in report}
    found = [entry[1].decode() for entry in _ENTRY.finditer(data)]
    if sorted(found) != sorted(_OWN_OF_A_FOLDER) or len(own) != len(found):
        return None
    try:
        shared = _with_entries(data, _OWN_OF_A_FOLDER)
        return shared if _with_entries(shared, own) == data else None
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _is_canonical(data: bytes) -> bool:
    return canonical(json.loads(data)) == data


@lru_cache(maxsize=16)
def _shared_problems(data: bytes) -> tuple[str, ...]:
    return _errors(_validator(), json.loads(data))


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
