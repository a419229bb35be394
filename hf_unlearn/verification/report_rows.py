"""Rows of a report, typed: scores, models, transforms, recovered shares.

Reports of other versions, of audits without a never-knew model, or with metrics left out are read as far as they go.
What is not there is ``None``, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Report = Mapping[str, Any]
Role = Literal["target", "never_knew", "release", "candidate", "control", "other"]
Kind = Literal["identity", "format", "attack"]

# A worse status hides a better one when several are summed up in one cell.
_SEVERITY = {"passed": 1, "inconclusive": 2, "failed": 3}


@dataclass(frozen=True)
class Score:
    """A mean over facts with its interval.

    Attributes:
        value: The mean.
        low: Lower end of the 95 % interval, if the report has one.
        high: Upper end.
        n: Facts that were scored.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Subject:
    """A scored model.

    Attributes:
        name: As in the report.
        role: What it is there for; ``release`` is the candidate that the verdict is about.
        status: Its own verdict (references have none).
        expected: The verdict that a control must get. A candidate that is a control too has one as well.
        as_expected: Whether a control got it.
        caught_by: Transforms that caught a control.
        required_by: Transforms that had to be among them.
        reasons: Why it got its verdict.
    """

    name: str
    role: Role
    status: str | None = None
    expected: str | None = None
    as_expected: bool | None = None
    caught_by: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name as people write it."""
        return "never-knew" if self.name == "never_knew" else self.name

    @property
    def is_reference(self) -> bool:
        """Whether other models are measured against this one."""
        return self.role in ("target", "never_knew")

    @property
    def is_control(self) -> bool:
        """Whether it is known beforehand what its verdict must be."""
        return self.role == "control" or self.expected is not None

    @property
    def role_words(self) -> str:
        """What it is there for, as people read it."""
        role = {"target": "knows it all", "never_knew": "reference", "other": ""}.get(self.role, self.role)
        return f"{role} and control" if self.is_control and self.role != "control" else role


@dataclass(frozen=True)
class Transform:
    """Something done to a model before it is scored."""

    name: str
    kind: Kind

    @property
    def label(self) -> str:
        """The name as people read it."""
        return "as is" if self.kind == "identity" else self.name

    @property
    def where(self) -> str:
        """The name within a sentence: ``as it stands``, ``in bnb-nf4``, ``after rtt``."""
        return (
            "as it stands" if self.kind == "identity" else f"{'after' if self.kind == 'attack' else 'in'} {self.name}"
        )


@dataclass(frozen=True)
class Share:
    """One recovered share with its interval and status.

    Attributes:
        model: The model.
        transform: The transform.
        metric: The metric.
        share: 0 is a model that never knew, 1 is the target; ``None`` where it could not be computed.
        low: Lower end of the 95 % interval.
        high: Upper end.
        ratio: Retention ratio, the score as a share of the target's.
        limit: Most that the gate allows here; ``None`` where the gate does not judge it.
        status: Verdict on this one; ``reported`` where the gate does not judge it.
        n: Facts.
        more_needed: Facts more that would settle an inconclusive one.
        over_forgotten: Whether it failed for lying too far below a model that never knew.
        reason: The report's own words on why it did not pass.
    """

    model: str
    transform: str
    metric: str
    share: float | None
    low: float | None
    high: float | None
    ratio: float | None
    limit: float | None
    status: str | None
    n: int | None
    more_needed: int | None
    over_forgotten: bool = False
    reason: str = ""

    @property
    def is_judged(self) -> bool:
        """Whether the gate judges it; others are only reported."""
        return self.limit is not None


@dataclass(frozen=True)
class Utility:
    """One judged utility number.

    Attributes:
        transform: The transform.
        kind: ``retain_score``, ``generic_kl`` or ``fluency``.
        metric: The metric.
        value: The model's mean.
        target: The target's mean under the same transform.
        ratio: Their ratio; ``None`` where the value is judged by itself.
        threshold: Least ratio, or most of the value.
        status: Verdict on this one.
        reason: The report's own words on why it did not pass.
    """

    transform: str
    kind: str
    metric: str
    value: float | None
    target: float | None
    ratio: float | None
    threshold: float | None
    status: str | None
    reason: str = ""

    @property
    def is_ceiling(self) -> bool:
        """Whether the threshold is the most that is allowed, not the least."""
        return self.kind == "generic_kl"

    @property
    def shown(self) -> float | None:
        """The number that is compared with the threshold."""
        return self.value if self.is_ceiling else self.ratio


def section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping under ``key``, empty if it is not there or is something else."""
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def entries(report: Report, key: str) -> list[Mapping[str, Any]]:
    """The list of mappings under ``key``, empty if it is not there."""
    return [row for row in report.get(key) or () if isinstance(row, Mapping)]


def number(value: Any) -> float | None:
    """``value`` as a finite float, or ``None``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def worst(statuses: Iterable[str | None]) -> str | None:
    """The worst of several verdicts; ``None`` if none of them is a verdict."""
    known = [status for status in statuses if status in _SEVERITY]
    return max(known, key=lambda status: _SEVERITY[status]) if known else None


def control_row(row: Mapping[str, Any]) -> Subject:
    """A row of ``controls``."""
    status, expected, ok = row.get("status"), row.get("expected"), row.get("ok")
    if ok is None and status and expected:
        ok = status == expected
    return Subject(
        str(row.get("name")),
        "control",
        status,
        expected,
        ok,
        texts(row.get("caught_by")),
        texts(row.get("required_by")),
        texts(row.get("reasons")),
    )


def utility_row(row: Mapping[str, Any]) -> Utility:
    """A row of ``utility``."""
    return Utility(
        str(row.get("transform")),
        str(row.get("kind") or "utility"),
        str(row.get("metric")),
        number(row.get("value")),
        number(row.get("target_value")),
        number(row.get("ratio")),
        number(row.get("threshold")),
        row.get("status"),
        str(row.get("reason") or ""),
    )


def score_row(row: Mapping[str, Any]) -> Score | None:
    """A row of ``scores``, or ``None`` if it has no number."""
    value = number(row.get("value"))
    if value is None or not all(row.get(key) for key in ("model", "transform", "split", "metric")):
        return None
    low, high = interval(row.get("ci95"))
    return Score(value, low, high, row.get("n"))


def interval(pair: Any) -> tuple[float | None, float | None]:
    """Both ends of an interval, ``None`` where there is none."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        return None, None
    return number(pair[0]), number(pair[1])


def texts(values: Any) -> tuple[str, ...]:
    """A list of texts, empty if it is not there."""
    if isinstance(values, str):
        return (values,)
    return tuple(str(value) for value in values or ())
