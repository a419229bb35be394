"""The gate: thresholds that are fixed before the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from ..errors import RequestError
from .references import IDENTITY
from .scores import ScoreTable
from .typed_json import Schema

_Part = Annotated[float, Schema(minimum=0, maximum=1)]


@dataclass(frozen=True)
class Gate:
    """What a release has to reach: the section of a recipe, and that of the report.

    Attributes:
        metrics: Metrics whose recovered share is judged (metrics of options are left out for a set without options).
        formats: Formats judged, besides the model without quantization (``identity``, always judged).
        attacks: Attacks judged.
        utility_sets: Further scored sets that must keep their scores as the retain set must.
        max_recovered_share_formats: The whole interval must be at or below this, as is and in formats.
        max_recovered_share_attacks: The same for attacks.
        min_recovered_share: A share clearly below this as is or in a format is over-forgetting.
        max_known_facts: Most single facts that may still be known under any transform
            (:mod:`~hf_unlearn.verification.single_facts`). By default as many as a model that never knew would show.
        min_utility: Minimum retain score relative to the target's under the same transform.
        max_generic_kl: Maximum KL (nats per token) from the target to the model on generic text, same transform.
        max_perplexity_ratio: Maximum perplexity of generic text relative to the target's, same transform; ``None``
            (and in reports that were made before there was a limit) for none.
        min_fluency: Minimum n-gram entropy of generated text relative to the target's, same transform.
        max_forgotten_rows_auc: Most with which somebody who has only the model may tell forgotten rows from holdout
            rows, as is and in formats: the whole interval of the two-sided AUC, from 0.5 (not at all) to 1, must be at
            or below this. By default it is reported and not judged.
        confidence: Level of the intervals.
        draws: Bootstrap draws.
    """

    metrics: Annotated[tuple[str, ...], Schema(min_items=1)] = ("extraction_strength", "probability", "mc_accuracy")
    formats: tuple[str, ...] = ("bnb-int8", "bnb-nf4", "bnb-fp4", "rtn-int4-g128", "rtn-int4-g32")
    attacks: tuple[str, ...] = ("rtt",)
    utility_sets: Annotated[tuple[str, ...], Schema(required=False)] = ()
    max_recovered_share_formats: _Part = 0.10
    max_recovered_share_attacks: _Part = 0.20
    min_recovered_share: float = -0.15
    max_known_facts: Annotated[int | None, Schema(minimum=0, since="1.3")] = None
    min_utility: _Part = 0.90
    max_generic_kl: float = 0.50
    max_perplexity_ratio: Annotated[float | None, Schema(minimum=1, since="1.4")] = 1.25
    min_fluency: _Part = 0.80
    max_forgotten_rows_auc: Annotated[float | None, Schema(minimum=0.5, maximum=1, since="1.5")] = None
    confidence: _Part = 0.95
    draws: Annotated[int, Schema(minimum=0)] = 10_000

    def __post_init__(self) -> None:
        for key in ("max_recovered_share_formats", "max_recovered_share_attacks", "min_utility", "min_fluency"):
            if not 0 <= getattr(self, key) <= 1:
                raise RequestError(f"gate.{key} is {getattr(self, key)}: it must be between 0 and 1")
        if self.min_recovered_share > 0:
            raise RequestError(f"gate.min_recovered_share is {self.min_recovered_share}: it must be at most 0")
        if self.max_known_facts is not None and self.max_known_facts < 0:
            raise RequestError(f"gate.max_known_facts is {self.max_known_facts}: it must be 0 or more")
        if self.max_generic_kl < 0:
            raise RequestError(f"gate.max_generic_kl is {self.max_generic_kl}: it must be at least 0")
        if self.max_perplexity_ratio is not None and self.max_perplexity_ratio < 1:
            raise RequestError(f"gate.max_perplexity_ratio is {self.max_perplexity_ratio}: it must be at least 1")
        auc = self.max_forgotten_rows_auc
        if auc is not None and not 0.5 <= auc < 1:
            raise RequestError(f"gate.max_forgotten_rows_auc is {auc}: it must be at least 0.5 (a guess) and under 1")
        if self.draws < 100:
            raise RequestError(f"gate.draws is {self.draws}: an interval needs at least 100")
        if not 0.5 < self.confidence < 1:
            raise RequestError(f"gate.confidence is {self.confidence}: it must be above 0.5 and under 1")
        if not self.metrics:
            raise RequestError("gate.metrics is empty: name at least one metric to judge")

    def limit(self, transform: str) -> float | None:
        """Most recovered share that is allowed under a transform; ``None`` where it is not judged."""
        if transform in self.attacks:
            return self.max_recovered_share_attacks
        return self.max_recovered_share_formats if transform in (IDENTITY, *self.formats) else None


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
