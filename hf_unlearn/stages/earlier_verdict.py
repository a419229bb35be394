"""What the verify stage does with earlier deletion requests: judge each, and put it into verdict and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..verification.build_report import score_rows, with_salted_ids
from ..verification.earlier import with_earlier
from ..verification.report import AttackRun, EarlierRequest
from ..verification.scores import ScoreTable
from ..verification.verdict import Judgement, judge
from .chain import check_subjects, check_variants
from .report_inputs import model_info, set_info
from .run import EarlierRun
from .scores import collect_scores


@dataclass(frozen=True)
class JudgedRequest:
    """An earlier request after judging.

    Attributes:
        request: The request, with its models.
        table: Scores of its models and of all methods.
        attacks: Attacks and what they spent.
        judgements: Judgement by method.
    """

    request: EarlierRun
    table: ScoreTable
    attacks: Sequence[AttackRun]
    judgements: Mapping[str, Judgement]

    @property
    def inputs(self) -> dict[str, Any]:
        """What decides its part of the report besides the scores of the run."""
        spec, report = self.request.spec, self.request.report
        return {
            "id": spec.id,
            "date": spec.date,
            "report": None if report is None else report["digest"],
            "models": {subject.name: subject.digest for subject in self.request.subjects},
            "data": self.request.context.data_digest,
        }


def judge_request(request: EarlierRun) -> JudgedRequest:
    """Judge every method on an earlier request.

    Raises:
        RequestError: Something has not been scored yet, or a file was changed since.
    """
    context, subjects = request.context, request.subjects
    table, attacks = collect_scores(context, request.target, subjects)
    check_subjects(subjects)
    check_variants(context, subjects)
    judgements = {
        subject.name: judge(table, subject.name, context.recipe.gate, seed=context.recipe.seed, with_utility=False)
        for subject in subjects
        if subject.role == "method"
    }
    return JudgedRequest(request, table, attacks, judgements)


def with_requests(judgements: Mapping[str, Judgement], earlier: Sequence[JudgedRequest]) -> dict[str, Judgement]:
    """Judgements by model, those of methods together with what came of earlier requests."""
    return {
        name: with_earlier(
            judgement, {each.request.spec.id: each.judgements[name] for each in earlier if name in each.judgements}
        )
        for name, judgement in judgements.items()
    }


def request_section(judged: JudgedRequest, candidate: str, salt: bytes) -> EarlierRequest:
    """What the report says about a request.

    Args:
        judged: The request.
        candidate: The release candidate.
        salt: Of the run's hashes.
    """
    request, context = judged.request, judged.request.context
    report, own = request.report, judged.judgements[candidate]
    every = list(judged.judgements.values())
    return EarlierRequest(
        id=request.spec.id,
        date=request.spec.date or (str(report["created"])[:10] if report is not None else ""),
        set=set_info(context.bundle.forget.score, salt),
        target=model_info(context, request.target),
        never_knew=None if request.never_knew is None else model_info(context, request.never_knew),
        report=None if report is None else report["digest"],
        salted_hash_then=None if report is None else report["data"]["forget"]["salted_hash"],
        then=None if report is None else report["verdict"]["status"],
        now=own.status,
        reasons=own.reasons,
        recovered=tuple(row for each in every for row in each.recovered),
        known_facts=with_salted_ids((row for each in every for row in each.known_facts), salt),
        scores=score_rows(judged.table, context.recipe.gate),
        attacks=tuple(judged.attacks),
        not_judged=_not_judged(request, own),
        notes=own.notes,
    )


def _not_judged(request: EarlierRun, judgement: Judgement) -> tuple[str, ...]:
    """What the gate of the run judges and that of the request does not, or what was not tested."""
    left_out = [name for name in request.main.recipe.gate.attacks if name not in request.recipe.gate.attacks]
    return tuple(dict.fromkeys([*left_out, *judgement.not_tested]))
