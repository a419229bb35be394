"""How many steps of retraining a model holds out, in words and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..verification.recovery import RecoveryRow
from .results import Results
from .words import show

TAUGHT_WORDS = {"part": "some facts, asked the others", "all": "all facts, asked the same"}
TUNING_WORDS = {"full": "all weights", "lora": "adapters"}
FLOOR_WORDS = {"never_knew": "never-knew", "holdout": "holdout facts"}


@dataclass(frozen=True)
class RecoveryCell:
    """Steps in one metric.

    Attributes:
        steps: In words.
        note: At which rate, and what they are beside.
    """

    steps: str
    note: str


@dataclass
class RecoveryTable:
    """Steps under one attack.

    Attributes:
        attack: The attack.
        metrics: Metrics in the order they are shown.
        rows: Model, what was trained on, what of the model was trained, and a cell per metric.
    """

    attack: str
    metrics: list[str] = field(default_factory=list)
    rows: list[tuple[str, str, str, dict[str, RecoveryCell]]] = field(default_factory=list)


def recovery_attacks(results: Results) -> list[str]:
    """Names of the attacks that asked how many steps it takes."""
    return list(dict.fromkeys(row.attack for row in results.report.recovery or ()))


def recovery_tables(results: Results) -> list[RecoveryTable]:
    """One table per attack, models in the order they are shown."""
    rows = results.report.recovery or ()
    order = {subject.name: (place, subject.label) for place, subject in enumerate(results.subjects)}
    tables = []
    for attack in recovery_attacks(results):
        own = [row for row in rows if row.attack == attack]
        seen = dict.fromkeys(row.metric for row in own)
        metrics = [*(name for name in results.metrics if name in seen)]
        table = RecoveryTable(attack, [*metrics, *(name for name in seen if name not in metrics)])
        cells: dict[tuple[str, str, str], dict[str, RecoveryCell]] = {}
        for row in sorted(own, key=lambda row: order.get(row.model, (len(order), ""))[0]):
            key = (row.model, row.taught or "", row.tuning or "")
            cells.setdefault(key, {})[row.metric] = RecoveryCell(steps_words(row), _note(row))
        table.rows = [
            (
                order.get(model, (0, model))[1],
                TAUGHT_WORDS.get(taught, taught),
                TUNING_WORDS.get(tuning, tuning),
                of_model,
            )
            for (model, taught, tuning), of_model in cells.items()
        ]
        tables.append(table)
    return tables


def steps_words(row: RecoveryRow) -> str:
    """``32 steps``, ``there before the attack``, ``never within 3,000 steps``."""
    if row.outcome == "recovered" and row.steps is not None:
        return _counted(row.steps) if row.steps else "there before the attack"
    within = row.within or 0
    why = {"retain lost": ", when the retain set was lost", "diverged": ", when training diverged"}
    return f"never within {_counted(within)}{why.get(row.ended or '', '')}"


def recovery_sentences(rows: Sequence[RecoveryRow]) -> list[str]:
    """A line for each model, metric and way of training, for a terminal."""
    return [
        f"{row.attack}, {row.model}, {row.metric}, {TUNING_WORDS.get(row.tuning or '', row.tuning)}, "
        f"{TAUGHT_WORDS.get(row.taught or '', row.taught)}: {steps_words(row)} ({_note(row)})"
        for row in rows
        if row.model not in ("target", "never_knew")
    ]


def _note(row: RecoveryRow) -> str:
    parts = []
    if row.steps:
        parts.append(f"not yet after {row.more_than:,}" if row.more_than is not None else "")
        parts.append(f"rate {row.learning_rate:g}" if row.learning_rate is not None else "")
    if row.model != "never_knew":
        parts.append(_beside(row))
    parts.append(f"half is {show(row.half, 2)}")
    return ", ".join(part for part in parts if part)


def _beside(row: RecoveryRow) -> str:
    if row.floor is None:
        return "nothing to compare with"
    floor = FLOOR_WORDS[row.floor]
    return f"{floor} never" if row.floor_steps is None else f"{floor} {_counted(row.floor_steps)}"


def _counted(steps: int) -> str:
    return f"{steps:,} step{'s' * (steps != 1)}"
