"""One sealed report from what was measured and what else is known about the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import RequestError
from .controls import ControlOutcome
from .digests import salted_id
from .explanation import Explanation
from .forgotten_rows import reported_rows
from .gate import Gate
from .intervals import Bootstrap, mean_estimate
from .outcomes import TransformOutcome
from .recovery import RecoveryRow, recovery_rows
from .report import (
    SCHEMA_VERSION,
    AttackRun,
    BenchmarkScore,
    CandidateOutcome,
    EarlierRequest,
    FormatInfo,
    JudgedCounts,
    Method,
    ModelInfo,
    Models,
    Report,
    SetInfo,
    UnlearnedModel,
    Verdict,
)
from .report_file import seal, validate_report
from .report_sections import fragility_rows, pooled_rows
from .scores import ScoreRow, ScoreTable
from .single_facts import KnownFactsRow
from .values import Settings
from .verdict import Judgement


@dataclass(frozen=True)
class Findings:
    """What a run measured, and what was made of it.

    Attributes:
        table: Scores of all models.
        gate: The gate that stood before the run.
        judgements: Judgements on all candidates and controls; the candidate's is the verdict.
        candidates: All methods that the candidate was chosen from.
        controls: Outcomes of the controls; a method can be a control too.
        attacks: Attacks and what they spent.
        explanation: Weights compared with the target's, model by model, without rows of noise: these follow from the
            shares.
        benchmarks: Scores on public benchmarks; the section is left out without any.
        earlier: Earlier deletion requests, judged again; the section is left out without any.
    """

    table: ScoreTable
    gate: Gate
    judgements: Sequence[Judgement]
    candidates: Sequence[str]
    controls: Sequence[ControlOutcome] = ()
    attacks: Sequence[AttackRun] = ()
    explanation: Explanation | None = None
    benchmarks: Sequence[BenchmarkScore] = ()
    earlier: Sequence[EarlierRequest] = ()


@dataclass(frozen=True)
class Candidate:
    """The model that is to be released.

    Attributes:
        name: Its method.
        files: Transform (``identity`` or a format) to file name to SHA-256, as scored.
        settings: Settings of its method.
        formats: What its export says of each format, calibration included.
    """

    name: str
    files: Mapping[str, Mapping[str, str]]
    settings: Settings = field(default_factory=dict)
    formats: Sequence[FormatInfo] = ()


@dataclass(frozen=True)
class RunFacts:
    """What a reader must know about a run besides its measurements.

    Attributes:
        name: Name of the run.
        created: When, as ISO 8601.
        target: The model before unlearning.
        never_knew: The model that never knew, if there is one.
        data: Set name to size and salted hash.
        salt: Of the ids of single facts.
        environment: Versions, device, seeds.
        not_tested: What was not tested besides what the verdict says, in words.
        notes: What else a reader must know.
        removed: What was to be forgotten, in words that give nothing away.
    """

    name: str
    created: str
    target: ModelInfo
    never_knew: ModelInfo | None
    data: Mapping[str, SetInfo]
    salt: bytes = b""
    environment: Settings = field(default_factory=dict)
    not_tested: Sequence[str] = ()
    notes: Sequence[str] = ()
    removed: str = ""


def build_report(findings: Findings, candidate: Candidate, run: RunFacts) -> dict[str, Any]:
    """Put everything that a reader needs into one sealed and validated report.

    Args:
        findings: What was measured.
        candidate: The release candidate.
        run: What else is known.

    Returns:
        The report as a document, with empty ``files`` and the digest set.

    Raises:
        RequestError: The candidate was not judged, or the report does not fit the schema.
    """
    by_subject = {judgement.subject: judgement for judgement in findings.judgements}
    if candidate.name not in by_subject:
        raise RequestError(
            f"the release candidate {candidate.name!r} was not judged: there are {', '.join(by_subject)}"
        )
    verdict = by_subject[candidate.name]
    report = Report(
        schema_version=SCHEMA_VERSION,
        created=run.created,
        name=run.name,
        format=None,
        verdict=_verdict(verdict, findings.attacks),
        models=Models(run.target, UnlearnedModel(candidate.name, candidate.files), run.never_knew),
        method=Method(candidate.name, candidate.settings),
        data=run.data,
        gate=findings.gate,
        scores=score_rows(findings.table, findings.gate),
        recovered=tuple(row for judgement in findings.judgements for row in judgement.recovered),
        known_facts=with_salted_ids(
            (row for judgement in findings.judgements for row in judgement.known_facts), run.salt
        ),
        utility=tuple(row for judgement in findings.judgements for row in judgement.utility),
        candidates=tuple(
            CandidateOutcome(subject, judgement.status, judgement.reasons)
            for subject, judgement in by_subject.items()
            if subject in findings.candidates
        ),
        controls=tuple(findings.controls),
        attacks=tuple(findings.attacks),
        not_tested=tuple(dict.fromkeys([*verdict.not_tested, *run.not_tested])),
        notes=tuple(dict.fromkeys([*verdict.notes, *run.notes])),
        environment=run.environment,
        formats=tuple(candidate.formats),
        pooled=tuple(pooled_rows(findings.table, findings.candidates, findings.gate.metrics)),
        explanation=_explanation(findings),
        benchmarks=tuple(findings.benchmarks) or None,
        removed=run.removed or None,
        earlier=tuple(findings.earlier) or None,
        recovery=recovery_of(findings.attacks) or None,
        forgotten_rows=(
            *reported_rows(findings.table, [name for name in _models(findings.table) if name not in by_subject]),
            *(row for judgement in findings.judgements for row in judgement.forgotten_rows),
        ),
    )
    sealed = seal(report.to_json())
    validate_report(sealed)
    return sealed


def _models(table: ScoreTable) -> list[str]:
    return list(dict.fromkeys(model for model, _ in table.told_apart))


def _verdict(judgement: Judgement, attacks: Sequence[AttackRun]) -> Verdict:
    return Verdict(
        status=judgement.status,
        reasons=judgement.reasons,
        candidate=judgement.subject,
        judged=JudgedCounts(len(judgement.outcomes), judgement.family.comparisons, judgement.family.factor),
        outcomes=tuple(_with_budget(outcome, attacks) for outcome in judgement.outcomes),
    )


def _with_budget(outcome: TransformOutcome, attacks: Sequence[AttackRun]) -> TransformOutcome:
    budget = next((attack.budget for attack in attacks if attack.name == outcome.transform), {})
    return replace(outcome, budget=budget)


def with_salted_ids(rows: Iterable[KnownFactsRow], salt: bytes) -> tuple[KnownFactsRow, ...]:
    """Counts of known facts with a salted id in place of every fact."""
    return tuple(replace(row, facts=tuple(salted_id(fact, salt) for fact in row.facts)) for row in rows)


def score_rows(table: ScoreTable, gate: Gate) -> tuple[ScoreRow, ...]:
    """Every score of a table as a row of the report."""
    settings = Bootstrap(gate.draws, gate.confidence)
    rows = []
    for key, scores in sorted(table.scores.items()):
        mean = mean_estimate(scores, settings)
        rows.append(ScoreRow(key.model, key.transform, key.split, key.metric, mean.value, mean.facts, mean.interval))
    return tuple(rows)


def recovery_of(attacks: Sequence[AttackRun]) -> tuple[RecoveryRow, ...]:
    """Steps to half of the target's score, from the curves of all attacks that have such."""
    names = dict.fromkeys(run.name for run in attacks if run.curves)
    return tuple(
        row
        for name in names
        for row in recovery_rows(name, [(run.model, run.curves or ()) for run in attacks if run.name == name])
    )


def _explanation(findings: Findings) -> Explanation | None:
    if findings.explanation is None:
        return None
    recovered = [row for judgement in findings.judgements for row in judgement.recovered]
    return replace(findings.explanation, noise=tuple(fragility_rows(recovered, findings.explanation.grids)))
