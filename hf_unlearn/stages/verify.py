"""The verify stage: all scores into one table, the gate over it, one report."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..hub.metadata import one_visible_line
from ..recipe import ControlSpec
from ..verification.build_report import Candidate, Findings, RunFacts, build_report
from ..verification.controls import ControlOutcome, all_as_expected, control_outcome
from ..verification.digests import sha256_file
from ..verification.report import AttackRun
from ..verification.report_file import load_report, write_report
from ..verification.scores import ScoreTable
from ..verification.verdict import RULES, Judgement, judge
from .benchmarks import benchmark_scores
from .chain import check_subjects, check_variants
from .context import RunContext, Subject
from .data import notes_on
from .earlier_verdict import JudgedRequest, judge_request, request_section, with_requests
from .report_inputs import (
    described,
    environment,
    explain_stage,
    export_info,
    method_settings,
    model_info,
    not_tested,
    run_salt,
    scored_files,
    set_info,
)
from .run import Run, Verified
from .scores import collect_scores
from .units import Unit

REPORT_FILE = "unlearning_report.json"
RANK = {"passed": 0, "inconclusive": 1, "failed": 2}


def verify_stage(run: Run) -> None:
    """Judge all methods and controls, choose the candidate, write ``verify/unlearning_report.json``."""
    context, target, subjects = run.context, run.target, run.subjects
    with context.progress.stage("verify"):
        for subject in subjects:
            for transform in context.transforms:
                context.variant(subject, transform)  # of several stages that are missing the first one is named
        check_subjects(subjects)
        check_variants(context, subjects)
        table, attacks = collect_scores(context, target, subjects)
        judged = [judge_request(request) for request in run.earlier]
        unit = verify_unit(context, target, subjects, judged)
        unit.run(lambda folder: _write_report(context, target, subjects, table, attacks, judged, folder))
        report = _own_report(unit)
    controls_ok = all(control["ok"] for control in report["controls"])
    run.verified = Verified(report, report["verdict"]["candidate"], controls_ok)


def _own_report(unit: Unit) -> dict[str, Any]:
    """The report as it was written. Plots may be added beside it later."""
    path = unit.path / REPORT_FILE
    if not path.is_file() or sha256_file(path) != unit.outputs().get(REPORT_FILE):
        raise RequestError(
            f"{path} was changed or removed since it was made: remove the folder {unit.path} and run the same command "
            "again"
        )
    return load_report(path)


def verify_unit(
    context: RunContext, target: Subject, subjects: Sequence[Subject], earlier: Sequence[JudgedRequest] = ()
) -> Unit:
    """The verify folder; what goes in is every model and every setting that made or judges a score."""
    recipe = context.recipe.to_dict()
    inputs = {
        "stage": "verify",
        "rules": RULES,
        "models": {subject.name: subject.digest for subject in subjects},
        "data": context.data_digest,
        "calibration": context.calibration_digests,
        "recipe": {
            key: recipe[key] for key in ("name", "controls", "export", "evaluate", "attack", "gate", "benchmarks")
        },
        "versions": context.versions,
    }
    if context.bundle.floor:
        inputs["floor"] = "holdout"
    if earlier:
        inputs["earlier"] = [each.inputs for each in earlier]
    return Unit(context.output_dir / "verify", inputs)


def judge_all(context: RunContext, table: ScoreTable, subjects: Sequence[Subject]) -> dict[str, Judgement]:
    """The gate over every method and control."""
    judged = [subject.name for subject in subjects if subject.role in ("method", "control")]
    return {name: judge(table, name, context.recipe.gate, seed=context.recipe.seed) for name in judged}


def control_outcomes(context: RunContext, table: ScoreTable, judgements: dict[str, Judgement]) -> list[ControlOutcome]:
    """Compare every control's judgement with what it must be."""
    return [_outcome(control, table, judgements) for control in context.recipe.controls]


def _outcome(control: ControlSpec, table: ScoreTable, judgements: dict[str, Judgement]) -> ControlOutcome:
    judgement = judgements[control.method if control.method else control.name]
    outcome = control_outcome(judgement, control.expected, control.caught_by)
    if outcome.ok and not _hides_well(control, table, judgement.subject):
        return replace(outcome, ok=False)
    return outcome


def _hides_well(control: ControlSpec, table: ScoreTable, subject: str) -> bool:
    """Whether a hidden control looks forgotten at full precision; one that does not would prove nothing."""
    for split, most, least in (
        ("forget", control.max_forget_score, None),
        ("retain", None, control.min_retain_score),
    ):
        scores = table.get(subject, "identity", split, "exact_match")
        if most is not None and (scores is None or scores.mean > most):
            return False
        if least is not None and (scores is None or scores.mean < least):
            return False
    return True


def without_trust(judgement: Judgement, controls: Sequence[ControlOutcome]) -> Judgement:
    """A pass from a verifier that misjudged a control is no pass; failures stand."""
    wrong = [outcome.name for outcome in controls if not outcome.ok]
    if not wrong or judgement.status != "passed":
        return judgement
    reason = f"Not every control came out as it must ({', '.join(wrong)}), so that a pass means nothing."
    return replace(judgement, status="inconclusive", reasons=(reason, *judgement.reasons))


def choose_candidate(methods: Sequence[str], judgements: dict[str, Judgement]) -> str:
    """The method to release: best verdict first, then fewest transforms that failed, then smallest worst share."""

    def order(name: str) -> tuple[int, int, float]:
        judgement = judgements[name]
        failed = {row.transform for row in judgement.recovered if row.status == "failed"}
        failed |= {row.transform for row in judgement.utility if row.status == "failed"}
        judged = [row.recovered_share for row in judgement.recovered if row.is_judged]
        worst = max((abs(share) for share in judged if share is not None), default=1.0)
        return RANK[judgement.status], len(failed), worst

    return min(methods, key=order)


def _write_report(
    context: RunContext,
    target: Subject,
    subjects: Sequence[Subject],
    table: ScoreTable,
    attacks: Sequence[AttackRun],
    earlier: Sequence[JudgedRequest],
    folder: Path,
) -> None:
    judgements = with_requests(judge_all(context, table, subjects), earlier)
    controls = control_outcomes(context, table, judgements)
    methods = [method.name for method in context.recipe.methods]
    candidate = choose_candidate(methods, judgements)
    judgements[candidate] = without_trust(judgements[candidate], controls)
    by_name = {subject.name: subject for subject in subjects}
    never = by_name.get("never_knew")
    salt = run_salt(context)
    notes = notes_on(context.bundle)
    if not all_as_expected(controls):
        wrong = ", ".join(outcome.name for outcome in controls if not outcome.ok)
        notes.append(f"Not every control came out as it must ({wrong}): the verdicts of this run cannot be trusted.")
    findings = Findings(
        table=table,
        gate=context.recipe.gate,
        judgements=list(judgements.values()),
        candidates=methods,
        controls=controls,
        attacks=attacks,
        explanation=explain_stage(context, target, subjects),
        benchmarks=benchmark_scores(context, subjects),
        earlier=[request_section(each, candidate, salt) for each in earlier],
    )
    released = Candidate(
        name=candidate,
        files=scored_files(context, by_name[candidate]),
        settings=method_settings(context, candidate),
        formats=[export_info(context, by_name[candidate], name) for name in context.recipe.export.formats],
    )
    run = RunFacts(
        name=context.recipe.name,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        target=model_info(context, target),
        never_knew=model_info(context, never) if never else None,
        data={name: set_info(rows, salt) for name, rows in context.bundle.scored_sets().items()},
        salt=salt,
        environment=environment(context),
        not_tested=not_tested(context.recipe),
        notes=notes,
        removed=one_visible_line(described(context.recipe.data)),
    )
    report = build_report(findings, released, run)
    write_report(report, folder / REPORT_FILE)
