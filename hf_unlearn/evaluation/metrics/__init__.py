"""Metrics: pure functions of a :class:`~hf_unlearn.evaluation.records.ScoredRow`.

``METRICS.get(name).value(row)`` is the row's value, or ``None`` where the metric does not apply to it. An entry's
``needs`` says what has to be in the record beyond the log-probabilities and hits of the answer: ``options``,
``generation``, ``samples``, ``vocabulary``, ``variants:paraphrased``, ``variants:perturbed``, ``prior``, ``layers``
or ``gradient``. Its ``version`` is raised whenever the same record would give another value.

All logarithms are natural and of probabilities: log-probabilities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from ...errors import RequestError
from ...registry import Registry
from ..records import ScoredRow

Metric = Callable[[ScoredRow], "float | None"]

#: Raised whenever a pass over the same rows would store other records. Each metric has a version of its own.
SCORE_VERSION = 2

METRICS: Registry[Metric] = Registry("metric", "hf_unlearn.evaluation.metrics")


def apply_metrics(records: Iterable[ScoredRow], names: Sequence[str]) -> list[ScoredRow]:
    """Records with the values of these metrics added, left out where one does not apply.

    Raises:
        RequestError: A name is not in :data:`METRICS`, or a value is not a finite number.
    """
    metrics = {name: METRICS.get(name).value for name in names}
    return [record.with_values(_values(record, metrics)) for record in records]


def score_versions(names: Iterable[str]) -> dict[str, int]:
    """Version of each of these metrics, as summaries state them.

    Raises:
        RequestError: A name is not in :data:`METRICS`.
    """
    return {name: METRICS.get(name).version or 1 for name in names}


def _values(record: ScoredRow, metrics: dict[str, Metric]) -> dict[str, float]:
    values = {}
    for name, metric in metrics.items():
        value = metric(record)
        if value is None:
            continue
        if not math.isfinite(value):
            raise RequestError(
                f"the {name} of row {record.id!r} of the set {record.set!r} is {value}: the model's log-probabilities "
                "on it are not finite, so its weights are broken or its dtype is too small for it"
            )
        values[name] = value
    return values


__all__ = ["METRICS", "SCORE_VERSION", "Metric", "apply_metrics", "score_versions"]
