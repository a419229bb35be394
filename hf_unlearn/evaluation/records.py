"""What scoring keeps of each row. Metrics are pure functions of these records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ScoredRow:
    """One scored row of one model.

    Attributes:
        id, fact, group: From the :class:`~hf_unlearn.data.example.Example`.
        set: Name of the set: ``forget``, ``retain``, ``holdout``, ``generic`` or the name of a further set.
        logps: Log-probability (nats) of each answer token given everything before it.
        hits: Whether each answer token was the most likely one.
        choice_logps: Summed log-probability (nats) of each option as answer, in the order of the row's choices.
        choice_lengths: Number of tokens of each option.
        right_choice: Index of the right option; -1 where there are no options.
        answer: The true answer.
        generated: Greedy continuation of the prompt; ``None`` where none was asked for.
        values: Metric name to value.
    """

    id: str
    fact: str
    group: str
    set: str
    logps: tuple[float, ...] = ()
    hits: tuple[bool, ...] = ()
    choice_logps: tuple[float, ...] = ()
    choice_lengths: tuple[int, ...] = ()
    right_choice: int = -1
    answer: str = ""
    generated: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    def with_values(self, values: Mapping[str, float]) -> ScoredRow:
        """A copy with these metric values added."""
        return replace(self, values={**self.values, **values})

    def to_json(self) -> str:
        """One JSON line."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @staticmethod
    def from_json(line: str) -> ScoredRow:
        """Inverse of :meth:`to_json`."""
        data: dict[str, Any] = json.loads(line)
        for key in ("logps", "hits", "choice_logps", "choice_lengths"):
            data[key] = tuple(data[key])
        return ScoredRow(**data)


def write_records(path: Path, rows: Iterable[ScoredRow]) -> None:
    """Write rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(row.to_json() + "\n")


def read_records(path: Path) -> list[ScoredRow]:
    """Read rows written by :func:`write_records`."""
    with path.open(encoding="utf-8") as file:
        return [ScoredRow.from_json(line) for line in file]
