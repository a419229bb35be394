"""Pooled retention: one number for how much several methods leave at one precision.

The 21 % and 83 % of arXiv 2410.16454. That paper gives no formula; the ratio of sums below, over its four methods with
a utility constraint, its two corpora and its two forget metrics, gives 21.4 % in full precision and 82.7 % in 4 bits
from its own table, and no other averaging that was tried gives both. It remains an inference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from ..errors import RequestError
from .recovered import RecoveredRow
from .scores import ScoreTable
from .typed_json import Schema

TARGET = "target"


@dataclass(frozen=True, order=True)
class Cell:
    """The place of a number in a results table.

    Attributes:
        model: A method's name, or ``target``.
        corpus: What was to be forgotten.
        precision: The format, full precision among them.
        metric: A score on the forget set that is larger the more is known.
    """

    model: str
    corpus: str
    precision: str
    metric: str


def pooled_retention(
    table: Mapping[Cell, float],
    methods: Sequence[str],
    corpora: Sequence[str],
    metrics: Sequence[str],
    precision: str,
) -> float | None:
    r"""What is left of the target's forget scores, pooled over methods, corpora and metrics at one precision.

    .. math:: \frac{\sum_{m,c,k} s(m, c, p, k)}{|M| \sum_{c,k} s(\text{target}, c, p, k)}

    The target is taken at the *same* precision. Sums are pooled, so that a corpus or metric with large numbers weighs
    more; metrics must be on one scale.

    Args:
        table: The results.
        methods: Names of methods.
        corpora: Names of corpora.
        metrics: Names of metrics.
        precision: The precision.

    Returns:
        The share; ``None`` where the target knows nothing.

    Raises:
        RequestError: A number is missing, or there is no method.
    """
    if not methods:
        raise RequestError("pooled retention needs at least one method")

    def total(model: str) -> float:
        cells = [Cell(model, corpus, precision, metric) for corpus in corpora for metric in metrics]
        missing = next((cell for cell in cells if cell not in table), None)
        if missing is not None:
            raise RequestError(
                f"the table has no {missing.metric} of {missing.model} on {missing.corpus} at {missing.precision}"
            )
        return sum(table[cell] for cell in cells)

    whole = len(methods) * total(TARGET)
    return sum(map(total, methods)) / whole if whole else None


@dataclass(frozen=True)
class PooledRow:
    """What several methods leave under one transform: a row of the report.

    Attributes:
        transform: The transform.
        retention: From :func:`pooled_retention`.
        methods: The methods.
        metrics: The metrics.
    """

    transform: str
    retention: float
    methods: tuple[str, ...]
    metrics: tuple[str, ...]


def pooled_rows(
    scores: ScoreTable, methods: Sequence[str], metrics: Sequence[str], *, target: str = TARGET, split: str = "forget"
) -> list[PooledRow]:
    """Pooled retention of a run's methods, for every transform that all of them were scored under.

    Args:
        scores: All scores of the run.
        methods: Names of the methods.
        metrics: The gate's metrics; those that were not scored are left out.
        target: Name of the target.
        split: The set that was to be forgotten.

    Returns:
        Rows of the report; none for fewer than two methods.
    """
    if len(methods) < 2:
        return []
    table = {
        Cell(TARGET if key.model == target else key.model, split, key.transform, key.metric): facts.mean
        for key, facts in scores.scores.items()
        if key.split == split and key.metric in metrics and key.model in (target, *methods)
    }
    scored = [metric for metric in metrics if any(cell.metric == metric for cell in table)]
    rows = []
    for transform in dict.fromkeys(cell.precision for cell in table):
        try:
            retention = pooled_retention(table, methods, [split], scored, transform)
        except RequestError:  # something was not scored under this transform
            continue
        if retention is not None:
            rows.append(PooledRow(transform, retention, tuple(methods), tuple(scored)))
    return rows


# Name of a weight noise transform: its grid, and the number of the draw.
NOISE_NAME = re.compile(r"noise-(?P<grid>.+)-(?P<draw>\d+)")


@dataclass(frozen=True)
class NoiseRow:
    """A model in a format against the same model under noise as large as the format's error: a row of the report.

    Attributes:
        model: The model.
        metric: The metric.
        format: The format.
        grid: Its grid.
        recovered_share: Recovered share in the format.
        noise_share: Mean recovered share over the draws of noise.
        noise_range: Least and largest over the draws.
        draws: How many there are.
    """

    model: str
    metric: str
    format: str
    grid: str
    recovered_share: float
    noise_share: Annotated[float, Schema("Mean over the draws.")]
    noise_range: tuple[float, float]
    draws: Annotated[int, Schema(minimum=1)]


def fragility_rows(recovered: Sequence[RecoveredRow], grids: Mapping[str, str]) -> list[NoiseRow]:
    """Recovered shares of formats compared with those of noise as large as their error.

    Args:
        recovered: Rows of all judged models.
        grids: Format to its grid.

    Returns:
        Rows of the report: for every model, metric and format that has a noise transform, the format's share and mean,
        least and largest share over the draws.
    """
    shares = {(row.model, row.metric, row.transform): row.recovered_share for row in recovered}
    rows = []
    for (model, metric, transform), share in shares.items():
        grid = grids.get(transform)
        if grid is None or share is None:
            continue
        draws = [
            value
            for (other, other_metric, name), value in shares.items()
            if (other, other_metric) == (model, metric) and value is not None and _grid_of_noise(name) == grid
        ]
        if draws:
            rows.append(
                NoiseRow(
                    model=model,
                    metric=metric,
                    format=transform,
                    grid=grid,
                    recovered_share=share,
                    noise_share=sum(draws) / len(draws),
                    noise_range=(min(draws), max(draws)),
                    draws=len(draws),
                )
            )
    return rows


def _grid_of_noise(transform: str) -> str | None:
    found = NOISE_NAME.fullmatch(transform)
    return found["grid"] if found else None
