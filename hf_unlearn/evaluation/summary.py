"""Means of records over facts, with intervals. No torch here: reading scores is cheap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..verification.intervals import Bootstrap, mean_estimate
from ..verification.scores import FactScores
from .records import ScoredRow


def fact_scores(records: Iterable[ScoredRow]) -> dict[tuple[str, str], FactScores]:
    """Values per fact, by set and metric. Rows of the same fact are averaged, over those that have the metric."""
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        for metric, value in record.values.items():
            key = (record.set, metric)
            rows.setdefault(key, {}).setdefault(record.fact, []).append(value)
            groups.setdefault(key, {})[record.fact] = record.group
    return {
        key: FactScores({fact: sum(values) / len(values) for fact, values in facts.items()}, groups[key])
        for key, facts in rows.items()
    }


def summarize(records: Iterable[ScoredRow]) -> dict[str, dict[str, dict[str, Any]]]:
    """``{set: {metric: {"mean": mean over facts, "n": number of facts, "ci95": [low, high]}}}``.

    The interval is a bootstrap over groups; ``None`` where there are too few of them.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, metric), facts in fact_scores(records).items():
        interval = mean_estimate(facts, Bootstrap()).interval
        ci95 = None if interval is None else list(interval)
        summary.setdefault(name, {})[metric] = {"mean": facts.mean, "n": len(facts.values), "ci95": ci95}
    return summary
