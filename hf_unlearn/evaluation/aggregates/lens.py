"""Logit lens: what the output head reads from the hidden states after every layer."""

from __future__ import annotations

import math
from typing import Any

from ...errors import RequestError
from ...verification.intervals import Bootstrap, mean_estimate
from ..records import ScoredRow
from . import AGGREGATES, AggregateInput, AggregateValue
from .facts import fact_values, set_rows

_DEFAULTS: dict[str, Any] = {"forget": "forget"}


@AGGREGATES.register(
    "logit_lens",
    summary="highest answer probability read after any layer",
    paper="nostalgebraist 2020 (logit lens); as a metric of unlearning arXiv 2309.17410",
    defaults=_DEFAULTS,
    needs=("sets:forget", "layers"),
    version=1,
)
def logit_lens(data: AggregateInput) -> AggregateValue:
    """Largest over layers of the mean over facts of ``exp(mean log-probability per answer token after the layer)``.

    In 0 ... 1. Details hold every layer's mean as ``layer_1``, ``layer_2`` ... and the number of the ``best_layer``.
    After the last layer it is the model's own ``probability``, so that the value is above it only where a layer below
    says more of the answer than the output does. The interval is that of the best layer, as if it had been chosen
    beforehand.

    Raises:
        RequestError: The set is missing, a row has no numbers per layer, or rows differ in how many.
    """
    name = "logit_lens"
    rows = set_rows(data, name, data.options(name, _DEFAULTS)["forget"])
    depth = len(rows[0].layer_logps)
    for row in rows:
        if not row.layer_logps or len(row.layer_logps) != depth:
            raise RequestError(
                f"{name}: row {row.id!r} of the set {row.set!r} has {len(row.layer_logps)} numbers per layer and the "
                f"first row has {depth}: score the set with the need 'layers'"
            )
    layers = [fact_values(rows, name, "probability", _after(layer)) for layer in range(depth)]
    best = max(range(depth), key=lambda layer: layers[layer].mean)
    estimate = mean_estimate(layers[best], Bootstrap())
    details = {f"layer_{layer + 1}": scores.mean for layer, scores in enumerate(layers)}
    return AggregateValue(layers[best].mean, estimate.facts, estimate.interval, {**details, "best_layer": best + 1.0})


def _after(layer: int) -> Any:
    def value(row: ScoredRow) -> float:
        return math.exp(row.layer_logps[layer])

    return value
