"""Metrics: pure functions of a :class:`~hf_unlearn.evaluation.records.ScoredRow`.

``METRICS.get(name).value(row)`` is the row's value, or ``None`` where the metric does not apply to it. An entry's
``needs`` says what has to be in the record: ``options`` or ``generation``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...registry import Registry
from ..records import ScoredRow

Metric = Callable[[ScoredRow], "float | None"]

#: Raised whenever a stored score would come out differently: scores of two versions are not compared.
SCORE_VERSION = 1

METRICS: Registry[Metric] = Registry("metric", "hf_unlearn.evaluation.metrics")


def apply_metrics(records: Iterable[ScoredRow], names: Sequence[str]) -> list[ScoredRow]:
    """Records with the values of these metrics added, left out where one does not apply.

    Raises:
        RequestError: A name is not in :data:`METRICS`.
    """
    metrics = {name: METRICS.get(name).value for name in names}
    return [
        record.with_values({name: value for name, metric in metrics.items() if (value := metric(record)) is not None})
        for record in records
    ]


__all__ = ["METRICS", "SCORE_VERSION", "Metric", "apply_metrics"]
