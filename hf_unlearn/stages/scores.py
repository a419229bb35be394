"""All scores that a run has made, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..attacks.activation_patching import ActivationPatching
from ..attacks.base import Attack
from ..attacks.prompting import PromptAttack
from ..evaluation.aggregates.forgotten_rows import tell_apart
from ..evaluation.records import ScoredRow, read_records
from ..evaluation.run import fact_scores
from ..verification.intervals import Bootstrap
from ..verification.report import AttackRun
from ..verification.scores import ScoreKey, ScoreTable
from .attack import attack_result, attack_units
from .context import RunContext, Subject
from .evaluate import evaluation_unit

_DRAWS_TO_REPORT = 2_000
"""For an interval that nothing is judged by."""


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
            records = read_records(unit.path / "records.jsonl")
            for (split, metric), facts in fact_scores(records).items():
                table.add(ScoreKey(subject.name, transform, split, metric), facts)
            _add_told_apart(table, context, (subject.name, transform), records)
        for name, attack in context.recipe.attack.items():
            result = attack_result(context, target, subject, name, attack)
            table.attacks[name] = attack.no_floor
            if isinstance(attack, PromptAttack):  # not one that is done after a format: that asks other weights
                table.wordings.add(name)
            for split, metric, facts in result.by_set():
                table.add(ScoreKey(subject.name, name, split, metric), facts)
            budget = attack.budget(context.bundle)
            details = [*result.details, *_depth(context, target, subjects, subject, name, attack)]
            curves = result.curves or None
            folds = budget.get("run_folds", 1)
            attacks.append(AttackRun(name, subject.name, folds, budget, tuple(details), curves))
    return table, attacks


def _depth(
    context: RunContext, target: Subject, subjects: Sequence[Subject], subject: Subject, name: str, attack: Attack
) -> list[dict[str, Any]]:
    """How deep it is that a model forgot, where it was patched into the target and a never-knew model too."""
    never = next((each for each in subjects if each.role == "never_knew"), None)
    if not isinstance(attack, ActivationPatching) or never is None:
        return []
    ours, theirs = (attack_units(context, target, each, name, attack) for each in (subject, never))
    found = attack.depth(*(next(iter(units.values())).path for units in (ours, theirs)))
    return [] if found is None else [found]


def _add_told_apart(
    table: ScoreTable, context: RunContext, place: tuple[str, str], records: Sequence[ScoredRow]
) -> None:
    """How well forgotten rows are told from holdout rows, where there are both."""
    gate = context.recipe.gate
    forget, holdout = ([row for row in records if row.set == name] for name in ("forget", "holdout"))
    draws = gate.draws if gate.max_forgotten_rows_auc is not None else min(gate.draws, _DRAWS_TO_REPORT)
    found = tell_apart(forget, holdout, Bootstrap(draws, gate.confidence, context.recipe.seed))
    if found is not None:
        table.told_apart[place] = found
