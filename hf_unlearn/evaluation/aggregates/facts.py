"""Values per fact of one set, as aggregates read them, and the checks that they can be made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ...errors import RequestError
from ...verification.scores import FactScores
from ..metrics import METRICS
from ..records import ScoredRow
from . import AggregateInput

RowValue = Callable[[ScoredRow], "float | None"]


def set_rows(data: AggregateInput, aggregate: str, name: str) -> Sequence[ScoredRow]:
    """Records of the set ``name``.

    Raises:
        RequestError: The set was not scored or is empty.
    """
    return _rows(data.records, aggregate, name, "the scored sets")


def reference_rows(data: AggregateInput, aggregate: str, name: str) -> Sequence[ScoredRow]:
    """Records of the reference model over the set ``name``, in the order of the scored model's.

    Raises:
        RequestError: There is no reference, it lacks the set, or its rows are not the same ones.
    """
    if data.reference is None:
        raise RequestError(
            f"{aggregate} needs records of a reference model over the set {name!r}, and no reference was given: "
            "score a model that never knew the forget set, or read its log"
        )
    rows = set_rows(data, aggregate, name)
    found = _by_id(_rows(data.reference, aggregate, name, "the reference's sets"), aggregate)
    wanted = _by_id(rows, aggregate)
    for here, there, owner, other in (
        (wanted, found, "the model", "the reference"),
        (found, wanted, "the reference", "the model"),
    ):
        missing = next((row_id for row_id in here if row_id not in there), None)
        if missing is not None:
            raise RequestError(
                f"{aggregate}: the rows of the set {name!r} do not line up: {owner} has {missing!r} and {other} does "
                "not: score both on the same rows"
            )
    return [found[row.id] for row in rows]


def fact_values(rows: Sequence[ScoredRow], aggregate: str, metric: str, compute: RowValue | None = None) -> FactScores:
    """One value per fact: the mean over its rows.

    A row's value is computed from what its record holds; if that is not enough, a value of this name in
    the record is used, so published logs, which hold only values, can be read as records.
    Rows without a generated text are left out where the metric is about such text, since a run may generate for
    some rows only. Any other row without a value is refused.

    Args:
        rows: Records of one set.
        aggregate: Name of the aggregate, for messages.
        metric: Name of the metric.
        compute: The metric's function, if it is not the registered one.

    Raises:
        RequestError: A row has no value, or one that is not a finite number.
    """
    entry = METRICS.get(metric)
    compute = compute or entry.value
    values: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    for row in rows:
        value = compute(row)
        value = row.values.get(metric) if value is None else value
        if value is None:
            if "generation" in entry.needs:
                continue
            needs = f", for which its record must hold {' and '.join(entry.needs)}" if entry.needs else ""
            raise RequestError(f"{aggregate}: row {row.id!r} of the set {row.set!r} has no {metric}{needs}")
        if not math.isfinite(value):
            raise RequestError(
                f"{aggregate}: the {metric} of row {row.id!r} of the set {row.set!r} is {value}, not a finite number"
            )
        values.setdefault(row.fact, []).append(value)
        groups[row.fact] = row.group
    if not values:
        raise RequestError(
            f"{aggregate}: no row of the set {rows[0].set!r} has {metric}: it needs {' and '.join(entry.needs)}"
        )
    return FactScores({fact: sum(found) / len(found) for fact, found in values.items()}, groups)


def _rows(sets: Mapping[str, Sequence[ScoredRow]], aggregate: str, name: str, where: str) -> Sequence[ScoredRow]:
    rows = sets.get(name, ())
    if not rows:
        have = ", ".join(repr(key) for key, members in sets.items() if members) or "none"
        raise RequestError(
            f"{aggregate} needs the set {name!r}, which is not among {where} ({have}): add its rows, or name another "
            "set in the aggregate's settings"
        )
    return rows


def _by_id(rows: Sequence[ScoredRow], aggregate: str) -> dict[str, ScoredRow]:
    found: dict[str, ScoredRow] = {}
    for row in rows:
        if row.id in found:
            raise RequestError(f"{aggregate}: the set {row.set!r} has two rows with the id {row.id!r}")
        found[row.id] = row
    return found
