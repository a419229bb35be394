"""Attacks as tables: what each spent, and what its strongest setting reached in every fold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..verification.report_rows import entries, number, section
from .results import Results
from .words import show

_SHOWN_APART = ("fold", "metric", "before", "after", "value")


@dataclass(frozen=True)
class AttackCell:
    """What the strongest setting of one fold reached in one metric.

    Attributes:
        change: Score before and after, or the one that was recorded.
        setting: The setting, as ``name value`` pairs.
    """

    change: str
    setting: str


@dataclass
class AttackTable:
    """An attack with one budget.

    Attributes:
        name: The attack.
        budget: What it may spend on each model.
        metrics: Metrics of which the strongest settings were recorded.
        rows: Model, fold, and a cell per metric.
    """

    name: str
    budget: Mapping[str, Any]
    metrics: list[str] = field(default_factory=list)
    rows: list[tuple[str, str, dict[str, AttackCell]]] = field(default_factory=list)


def attack_tables(results: Results) -> list[AttackTable]:
    """One table per attack and budget, models in the order they are shown."""
    order = {subject.name: i for i, subject in enumerate(results.subjects)}
    labels = {subject.name: subject.label for subject in results.subjects}
    tables: dict[str, AttackTable] = {}
    runs = entries(results.report, "attacks")
    for run in sorted(runs, key=lambda run: order.get(str(run.get("model")), len(order))):
        name, model, budget = str(run.get("name")), str(run.get("model") or "–"), section(run, "budget")
        key = json.dumps([name, budget], sort_keys=True, default=str)
        table = tables.setdefault(key, AttackTable(name, budget))
        folds: dict[str, dict[str, AttackCell]] = {}
        for best in run.get("best") or ():
            if isinstance(best, Mapping):
                metric = str(best.get("metric") or "score")
                folds.setdefault(str(best.get("fold", "–")), {})[metric] = _cell(best)
                table.metrics += [metric] if metric not in table.metrics else []
        if not folds:
            folds = {str(run.get("folds") or "–"): {}}
        table.rows += [(labels.get(model, model), fold, cells) for fold, cells in folds.items()]
    for table in tables.values():
        table.metrics.sort(key=lambda name: results.metrics.index(name) if name in results.metrics else 99)
    return list(tables.values())


def _cell(best: Mapping[str, Any]) -> AttackCell:
    before, after = number(best.get("before")), number(best.get("after"))
    value = after if after is not None else number(best.get("value"))
    change = show(value) if before is None else f"{show(before)} → {show(value)}"
    settings = [f"{str(key).replace('_', ' ')} {_plain(best[key])}" for key in best if key not in _SHOWN_APART]
    return AttackCell(change, ", ".join(settings))


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
