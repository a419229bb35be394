"""The verification report, ``unlearning_report.json``: made here, sealed here, read here."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .controls import ControlOutcome
from .fragility import fragility_rows
from .gate import Gate
from .intervals import Bootstrap, mean_estimate
from .pooled import pooled_rows
from .recovered import RecoveredRow
from .scores import ScoreTable
from .utility import UtilityRow
from .verdict import Judgement

REPORT_FILE = "unlearning_report.json"
SCHEMA_VERSION = "1.1"
SCHEMA_PATH = Path(__file__).with_name("unlearning_report.schema.json")


@dataclass(frozen=True)
class ModelInfo:
    """Which model was compared with. Never a local path: the report is published.

    Attributes:
        hub_id: Its id on the Hub; ``None`` for a local model.
        revision: Its commit there.
        description: One line for people.
        files: File name to SHA-256.
    """

    hub_id: str | None = None
    revision: str | None = None
    description: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SetInfo:
    """Size and identity of a scored set, without its text.

    Attributes:
        facts: Number of facts.
        rows: Number of rows.
        salted_hash: From :func:`~hf_unlearn.verification.salted.salted_hash`.
    """

    facts: int
    rows: int
    salted_hash: str


@dataclass(frozen=True)
class AttackRun:
    """What was tried to bring the knowledge back, on one model.

    Attributes:
        name: The attack, as in ``transform``.
        model: The attacked model.
        folds: Number of folds.
        budget: What the attacker could spend: epochs, learning rates, facts trained on.
        best: The attacker's best result in each fold, such as
            ``{"fold": 0, "metric": "probability", "rate": 3e-4, "epoch": 4}``.
    """

    name: str
    model: str
    folds: int
    budget: Mapping[str, Any]
    best: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Explanation:
    """What unlearning did to weights, as quantizers see it.

    Attributes:
        grids: Format to the name of the grid it rounds to; formats without one are left out.
        models: Model to what :func:`~hf_unlearn.quantization.explain.explain_folders` found, or to a ``reason``.
    """

    grids: Mapping[str, str]
    models: Mapping[str, Mapping[str, Any]]


def build_report(
    *,
    name: str,
    created: str,
    table: ScoreTable,
    gate: Gate,
    candidate: str,
    candidates: Sequence[str],
    judgements: Sequence[Judgement],
    target: ModelInfo,
    never_knew: ModelInfo | None,
    unlearned_files: Mapping[str, Mapping[str, str]],
    method: Mapping[str, Any],
    data: Mapping[str, SetInfo],
    controls: Sequence[ControlOutcome] = (),
    attacks: Sequence[AttackRun] = (),
    environment: Mapping[str, Any] | None = None,
    not_tested: Sequence[str] = (),
    notes: Sequence[str] = (),
    formats: Sequence[Mapping[str, Any]] = (),
    explanation: Explanation | None = None,
    benchmarks: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Put everything that a reader needs into one sealed and validated report.

    Args:
        name: Name of the run.
        created: When, as ISO 8601.
        table: Scores of all models.
        gate: The gate that stood before the run.
        candidate: The method whose model is to be released.
        candidates: All methods it was chosen from.
        judgements: Judgements on all candidates and controls; the candidate's is the verdict.
        target: The model before unlearning.
        never_knew: The model that never knew, if there is one.
        unlearned_files: Transform (``identity`` or a format) to file name to SHA-256, as scored, of the candidate.
        method: Settings of the candidate's method.
        data: Set name to size and salted hash.
        controls: Outcomes of the controls; a method can be a control too.
        attacks: Attacks and what they spent.
        environment: Versions, device, seeds.
        not_tested: What else was not tested, in words.
        notes: What else a reader must know.
        formats: What the export of the candidate says of each format, calibration included.
        explanation: Weights beside the target's, model by model.
        benchmarks: Scores on public benchmarks; the section is left out without any.

    Returns:
        The report, with empty ``files`` and the digest set.

    Raises:
        RequestError: The candidate was not judged, or the report does not fit the schema.
    """
    by_subject = {judgement.subject: judgement for judgement in judgements}
    if candidate not in by_subject:
        raise RequestError(f"the release candidate {candidate!r} was not judged: there are {', '.join(by_subject)}")
    verdict = by_subject[candidate]
    settings = Bootstrap(gate.draws, gate.confidence)
    report = {
        "schema_version": SCHEMA_VERSION,
        "created": created,
        "name": name,
        "format": None,
        "verdict": {"status": verdict.status, "reasons": list(verdict.reasons), "candidate": candidate},
        "models": {
            "target": asdict(target),
            "unlearned": {"name": candidate, "files": {key: dict(files) for key, files in unlearned_files.items()}},
            "never_knew": None if never_knew is None else asdict(never_knew),
        },
        "method": {"name": candidate, "settings": dict(method)},
        "data": {set_name: asdict(info) for set_name, info in data.items()},
        "gate": asdict(gate),
        "scores": _scores(table, settings),
        "recovered": [_recovered(row) for judgement in judgements for row in judgement.recovered],
        "utility": [_utility(row) for judgement in judgements for row in judgement.utility],
        "candidates": [
            {"name": subject, "status": judgement.status, "reasons": list(judgement.reasons)}
            for subject, judgement in by_subject.items()
            if subject in candidates
        ],
        "controls": [asdict(outcome) for outcome in controls],
        "attacks": [asdict(attack) for attack in attacks],
        "not_tested": list(dict.fromkeys([*verdict.not_tested, *not_tested])),
        "notes": list(dict.fromkeys([*verdict.notes, *notes])),
        "environment": dict(environment or {}),
        "files": {},
        "formats": [dict(info) for info in formats],
        "pooled": pooled_rows(table, candidates, gate.metrics),
        "explanation": _explanation(explanation, judgements),
        **({"benchmarks": [dict(score) for score in benchmarks]} if benchmarks else {}),
    }
    sealed = seal(report)
    validate_report(sealed)
    return sealed


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


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _scores(table: ScoreTable, settings: Bootstrap) -> list[dict[str, Any]]:
    rows = []
    for key, scores in sorted(table.scores.items()):
        estimate = mean_estimate(scores, settings)
        rows.append({**asdict(key), "value": estimate.value, "n": estimate.facts, "ci95": _pair(estimate.interval)})
    return rows


def _recovered(row: RecoveredRow) -> dict[str, Any]:
    return {
        "model": row.model,
        "transform": row.transform,
        "metric": row.metric,
        "retention_ratio": _finite(row.retention_ratio),
        "recovered_share": _finite(row.recovered.value),
        "ci95": _pair(row.recovered.interval),
        "threshold": row.threshold,
        "status": row.status,
        "over_forgotten": row.over_forgotten,
        "n": row.recovered.facts,
        "more_needed": row.more_needed,
        "reason": row.reason,
    }


def _explanation(explanation: Explanation | None, judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    if explanation is None:
        return None
    rows = [row for judgement in judgements for row in judgement.recovered]
    return {
        "grids": dict(explanation.grids),
        "models": [{"model": name, **found} for name, found in explanation.models.items()],
        "noise": fragility_rows(rows, explanation.grids),
    }


def _utility(row: UtilityRow) -> dict[str, Any]:
    return {**asdict(row), "ratio": _finite(row.ratio)}
