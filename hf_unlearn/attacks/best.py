"""What an attacker who may choose afterwards takes home: per metric the best of everything that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.records import fact_scores, read_records
from ..verification.scores import FactScores
from .base import AttackResult


@dataclass(frozen=True)
class Try:
    """One thing an attacker tried.

    Attributes:
        fold: Which facts were asked for. The best is chosen within a fold; folds are put together.
        setting: What was turned, such as the learning rate.
        epoch: How far it went; 0 is before the attack.
        scores: What came back, by set and metric.
    """

    fold: int
    setting: float
    epoch: int
    scores: Mapping[tuple[str, str], FactScores]


def read_epochs(folder: Path, fold: int, setting: float) -> list[Try]:
    """Every ``epoch<N>.jsonl`` of a job's folder."""
    found = {int(path.stem.removeprefix("epoch")): path for path in folder.glob("epoch*.jsonl")}
    return [Try(fold, setting, epoch, fact_scores(read_records(path))) for epoch, path in sorted(found.items())]


def read_try(path: Path, setting: float, *, changed: bool) -> Try:
    """Records of one thing that was tried.

    Args:
        path: The records.
        setting: What was turned.
        changed: Whether anything was: otherwise this is the model before the attack.
    """
    return Try(0, setting, int(changed), fact_scores(read_records(path)))


@dataclass(frozen=True)
class End:
    """A try that was not carried to its end.

    Attributes:
        fold: See :class:`Try`.
        setting: See :class:`Try`.
        how: ``diverged`` (the loss was no number any more) or ``stopped`` (given up, nothing came back any more).
    """

    fold: int
    setting: float
    how: str


def read_ends(folder: Path, fold: int, setting: float) -> list[End]:
    """How a job ended, if it ended early."""
    return [End(fold, setting, how) for how in ("diverged", "stopped") if (folder / f"{how}.json").exists()]


def best_of(
    tries: Sequence[Try], metrics: Sequence[str], setting_name: str = "learning_rate", ends: Sequence[End] = ()
) -> AttackResult:
    """The best try per metric and fold, by the mean over facts; of equals the one that costs least.

    Holdout facts are taken from the same try, never from the one that is best for them. Every fold asks them, so a
    holdout fact's value is its mean over folds.

    Args:
        tries: Everything tried, the model before the attack (epoch 0) included.
        metrics: Names of metrics; those that were not scored are left out.
        setting_name: What ``Try.setting`` is called in the details.
        ends: Tries that ended early; the details name their settings.
    """
    scores: dict[str, FactScores] = {}
    holdout: dict[str, FactScores] = {}
    details: list[dict[str, Any]] = []
    for metric in metrics:
        values: dict[str, float] = {}
        groups: dict[str, str] = {}
        beside: list[FactScores] = []
        for fold in sorted({each.fold for each in tries}):
            there = [each for each in tries if each.fold == fold and ("forget", metric) in each.scores]
            if not there:
                continue
            best = max(there, key=lambda each: (each.scores["forget", metric].mean, -each.epoch, -each.setting))
            before = next(each for each in there if each.epoch == 0)
            facts = best.scores["forget", metric]
            values.update(facts.values)
            groups.update(facts.groups)
            if ("holdout", metric) in best.scores:
                beside.append(best.scores["holdout", metric])
            details.append(
                {
                    "metric": metric,
                    "fold": fold,
                    setting_name: best.setting,
                    "epoch": best.epoch,
                    "before": before.scores["forget", metric].mean,
                    "after": facts.mean,
                    **_ended(ends, fold),
                }
            )
        if values:
            scores[metric] = FactScores(values, groups)
        if beside:
            holdout[metric] = mean_over_folds(beside)
    return AttackResult(scores, details, holdout)


def mean_over_folds(folds: Sequence[FactScores]) -> FactScores:
    """Of the same facts, asked in several folds, the mean of each."""
    values = {
        fact: sum(each.values[fact] for each in folds) / len(folds)
        for fact in folds[0].values
        if all(fact in each.values for each in folds)
    }
    return FactScores(values, folds[0].groups)


def _ended(ends: Sequence[End], fold: int) -> dict[str, list[float]]:
    of_fold = [end for end in ends if end.fold == fold]
    return {
        how: sorted(end.setting for end in of_fold if end.how == how) for how in sorted({end.how for end in of_fold})
    }
