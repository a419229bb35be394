"""What a verdict rests on, checked before anything is trained: does the target know, and did the other model never?

A run that would end in "there is nothing to forget" should not train for hours first. The evaluate stage reuses
the scores made here, so nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..attacks.base import check_judgeable
from ..errors import RequestError
from ..evaluation.records import read_records
from ..evaluation.run import RECORDS_FILE, fact_scores
from ..recipe.checks import located
from ..runtime.processes import on_main_process
from ..verification.intervals import Bootstrap
from ..verification.references import IDENTITY, check_target_knows, find_reference, judged_metrics, leaking_metrics
from ..verification.scores import ScoreKey, ScoreTable
from .context import RunContext, Subject
from .evaluate import evaluation_unit, score, unscored
from .run import EarlierRun, Run

SPLIT = "forget"


def baseline_stage(run: Run) -> None:
    """Score target and never-knew model as they stand, and refuse a run whose verdict would mean nothing.

    Under several processes all of them call this together.

    Raises:
        RequestError: The target does not know what is to be forgotten, the never-knew model knows it, or nothing of
            the gate can be measured.
    """
    _score(run.context, run.target, run.baselines)
    on_main_process(lambda: check_baselines(run.context, run.target, run.baselines))
    for request in run.earlier:
        _score(request.context, request.target, request.baselines)
        on_main_process(partial(_check_request, request))


def _check_request(request: EarlierRun) -> None:
    with located(request.spec.key):
        check_baselines(request.context, request.target, request.baselines)


def check_baselines(context: RunContext, target: Subject, subjects: Sequence[Subject]) -> None:
    """Compare the scores of target and never-knew model.

    Raises:
        RequestError: See :func:`baseline_stage`.
    """
    gate = context.recipe.gate
    settings = Bootstrap(gate.draws, gate.confidence, context.recipe.seed)
    table = _scores(context, target, subjects)
    reference = find_reference(table, "never_knew", "target", SPLIT)
    metrics = judged_metrics(table, "target", SPLIT, gate.metrics)
    # First whether the never-knew model knows: that would make the target look as if it knew nothing more.
    leaks = leaking_metrics(table, "target", reference, metrics, settings)
    if leaks:
        raise RequestError(
            f"no verdict can be given: {' '.join(leaks)} Name another never-knew model, or leave it out: the holdout "
            "set then takes its place"
        )
    check_target_knows(table, "target", reference, SPLIT, metrics, settings)
    for name in gate.attacks:  # the set may lack what the recipe's check assumed, such as options
        check_judgeable(name, context.recipe.attack[name], metrics)


def _score(context: RunContext, target: Subject, subjects: Sequence[Subject]) -> None:
    waiting = unscored(context, target, [(subject, IDENTITY) for subject in subjects])
    for _ in context.progress.follow("evaluate", len(waiting), score(context, target, waiting)):
        pass


def _scores(context: RunContext, target: Subject, subjects: Sequence[Subject]) -> ScoreTable:
    table = ScoreTable()
    for subject in subjects:
        unit = evaluation_unit(context, target, subject, IDENTITY, context.bundle.scored_sets())
        unit.checked()
        for (split, metric), facts in fact_scores(read_records(unit.path / RECORDS_FILE)).items():
            table.add(ScoreKey(subject.name, IDENTITY, split, metric), facts)
    return table
