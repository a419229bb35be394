"""By which of the gate's metrics each transform is judged: not every attack measures all of them.

A probe chooses among options and has no probability of an answer; sampling has texts only. Under such an attack the
metrics are judged that exist there, and the report says which do not. Nothing passes by being left out: a metric is
left out only where the target, attacked alike, has no scores of it either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .gate import Gate
from .scores import ScoreTable


def metrics_under(
    transform: str,
    metrics: Sequence[str],
    gate: Gate,
    table: ScoreTable,
    models: Sequence[str],
    split: str,
) -> tuple[str, ...]:
    """Metrics that a transform is judged by.

    Args:
        transform: The transform.
        metrics: Metrics of the gate that the target has as it stands.
        gate: Says which transforms are attacks; as it stands and in formats a model is judged by all metrics.
        table: All scores.
        models: Names of the target and of the judged model. What either of them has is judged: where the other lacks
            it, that is inconclusive.
        split: The set that was to be forgotten.

    Returns:
        Some of ``metrics``, in their order.
    """
    if transform not in gate.attacks:
        return tuple(metrics)
    return tuple(
        metric for metric in metrics if any(table.get(model, transform, split, metric) is not None for model in models)
    )


def left_out_sentences(asked: Mapping[str, Sequence[str]], metrics: Sequence[str]) -> Iterator[str]:
    """What was left out where, one sentence for the transforms with the same metrics.

    Args:
        asked: Tested transforms and what each was judged by.
        metrics: All metrics that are judged.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for transform, names in asked.items():
        if set(names) != set(metrics):
            groups.setdefault(tuple(names), []).append(transform)
    for names, transforms in groups.items():
        missing = [metric for metric in metrics if metric not in names]
        alone = "alone" if len(names) == 1 else "only"
        verb = "is" if len(missing) == 1 else "are"
        where = _listed(transforms)
        yield f"{where}: judged by {_listed(names)} {alone}: {_listed(missing)} {verb} not measured under {where}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
