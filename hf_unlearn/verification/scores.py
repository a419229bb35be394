"""Scores as the verdict sees them, one number per fact, and as the report has them, one per set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .told_apart import ToldApart
from .typed_json import Stated
from .values import Count, Interval


@dataclass(frozen=True, order=True)
class ScoreKey:
    """Where a score belongs.

    Attributes:
        model: ``target``, ``never_knew``, a method's name or a control's name.
        transform: ``identity``, a format or an attack.
        split: The scored set.
        metric: The metric's name.
    """

    model: str
    transform: str
    split: str
    metric: str


@dataclass(frozen=True)
class FactScores:
    """One metric on one set, a value per fact (rows of the same fact already averaged).

    Attributes:
        values: Fact to value.
        groups: Fact to the group it belongs to; intervals resample whole groups.
    """

    values: Mapping[str, float]
    groups: Mapping[str, str]

    @property
    def mean(self) -> float:
        """Mean over facts."""
        return sum(self.values.values()) / len(self.values)


@dataclass(frozen=True)
class ScoreRow:
    """A mean over facts with its interval: a row of the report.

    Attributes:
        model: As in :class:`ScoreKey`.
        transform: As in :class:`ScoreKey`.
        split: As in :class:`ScoreKey`.
        metric: As in :class:`ScoreKey`.
        value: The mean; ``None`` where it is not a finite number.
        n: Facts that were scored.
        ci95: Interval of the mean.
    """

    model: str
    transform: str
    split: str
    metric: str
    value: float | None
    n: Stated[Count]
    ci95: Interval


@dataclass
class ScoreTable:
    """All scores of a run.

    Attributes:
        scores: The scores.
        attacks: The transforms that are attacks: for each why holdout facts cannot stand in for a never-knew model
            under it, as half a sentence, which is empty where they can.
        wordings: Those of them that ask the model as it stands in other words.
        told_apart: How well forgotten rows are told from holdout rows, by model and transform.
    """

    scores: dict[ScoreKey, FactScores] = field(default_factory=dict)
    attacks: dict[str, str] = field(default_factory=dict)
    wordings: set[str] = field(default_factory=set)
    told_apart: dict[tuple[str, str], ToldApart] = field(default_factory=dict)

    def get(self, model: str, transform: str, split: str, metric: str) -> FactScores | None:
        """The scores under this key, or ``None`` if they were not measured."""
        return self.scores.get(ScoreKey(model, transform, split, metric))

    def add(self, key: ScoreKey, facts: FactScores) -> None:
        """Add scores under a key that is not there yet."""
        if key in self.scores:
            raise ValueError(f"scores of {key} are there already")
        self.scores[key] = facts
