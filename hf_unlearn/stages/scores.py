"""All scores that a run has made, in one table."""

from __future__ import annotations

from collections.abc import Sequence

from ..attacks.prompting import PromptAttack
from ..evaluation.records import read_records
from ..evaluation.run import fact_scores
from ..verification.report import AttackRun
from ..verification.scores import ScoreKey, ScoreTable
from .attack import attack_result
from .context import RunContext, Subject
from .evaluate import evaluation_unit


def collect_scores(
    context: RunContext, target: Subject, subjects: Sequence[Subject]
) -> tuple[ScoreTable, list[AttackRun]]:
    """Read every record of every model.

    Raises:
        RequestError: Something has not been scored yet.
    """
    table = ScoreTable()
    sets = context.bundle.scored_sets()
    attacks = []
    for subject in subjects:
        for transform in context.transforms:
            unit = evaluation_unit(context, target, subject, transform, sets)
            unit.checked()
            for (split, metric), facts in fact_scores(read_records(unit.path / "records.jsonl")).items():
                table.add(ScoreKey(subject.name, transform, split, metric), facts)
        for name, attack in context.recipe.attack.items():
            result = attack_result(context, target, subject, name, attack)
            table.attacks[name] = attack.no_floor
            if isinstance(attack, PromptAttack):  # not one that is done after a format: that asks other weights
                table.wordings.add(name)
            for split, metric, facts in result.by_set():
                table.add(ScoreKey(subject.name, name, split, metric), facts)
            budget = attack.budget(context.bundle)
            details, curves = tuple(result.details), result.curves or None
            attacks.append(AttackRun(name, subject.name, budget.get("run_folds", 1), budget, details, curves))
    return table, attacks
