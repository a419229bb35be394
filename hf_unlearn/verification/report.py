"""The verification report: everything that a reader needs, put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import RequestError
from .controls import ControlOutcome
from .gate import Gate
from .intervals import Bootstrap, mean_estimate
from .outcomes import TransformOutcome
from .recovered import RecoveredRow
from .report_file import seal, validate_report
from .report_sections import fragility_rows, pooled_rows
from .scores import ScoreTable
from .utility import UtilityRow
from .verdict import Judgement

SCHEMA_VERSION = "1.2"


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
        salted_hash: From :func:`~hf_unlearn.verification.digests.salted_hash`.
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
        "verdict": {
            "status": verdict.status,
            "reasons": list(verdict.reasons),
            "candidate": candidate,
            "judged": {
                "transforms": len(verdict.outcomes),
                "comparisons": verdict.family.comparisons,
                "joint_factor": verdict.family.factor,
            },
            "outcomes": [_outcome(outcome, gate, attacks) for outcome in verdict.outcomes],
        },
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


def _outcome(outcome: TransformOutcome, gate: Gate, attacks: Sequence[AttackRun]) -> dict[str, Any]:
    """What came of a transform, with what an attacker was given."""
    budget = next((attack.budget for attack in attacks if attack.name == outcome.transform), {})
    return {
        "transform": outcome.transform,
        "kind": "attack" if outcome.transform in gate.attacks else "format",
        "status": outcome.status,
        "causes": list(outcome.causes),
        "worst_share": _finite(outcome.worst),
        "budget": dict(budget),
    }


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
        "joint95": _pair(row.joint),
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
