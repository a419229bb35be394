"""Does the model still work, under the same transform as it was judged under?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .gate import Gate
from .references import IDENTITY
from .scores import ScoreTable
from .typed_json import Stated
from .values import Status, finite

UTILITY_METRICS = ("probability", "mc_accuracy")
"""Metrics on the retain set that are judged: can it still say the answer, and does it still know which one is right.

Extraction strength is left out on purpose. It asks how little of an answer must be given away before the rest
follows word for word, so that it falls when a model says a kept fact in other words, which is no loss of use.
"""

LOG_LOSS = "nll"
"""What a perplexity is made of: its logarithm, a mean over rows."""

MOST_NATS = 300.0

Kind = Literal["retain_score", "kept_score", "generic_kl", "perplexity", "fluency"]


@dataclass(frozen=True)
class UtilityRow:
    """One judged utility number: a row of the report.

    Attributes:
        model: The judged model.
        transform: The transform.
        kind: ``retain_score``, ``kept_score`` (the gate's further sets) and ``fluency`` are compared with the target's
            by their ratio, ``perplexity`` on generic text too, ``generic_kl`` (nats per token, from the target to the
            model) by itself.
        metric: The metric; of a further set ``SET/METRIC``.
        value: The model's mean; ``None`` where it is missing or not a finite number.
        target_value: The target's mean under the same transform.
        ratio: ``value / target_value``; ``None`` for ``generic_kl`` and where the target has nothing.
        threshold: Least ratio; of ``perplexity`` the largest, and the largest KL.
        status: Judged by the point value.
        reason: Why it did not pass; empty where it did.
    """

    model: str
    transform: str
    kind: Kind
    metric: str
    value: float | None
    target_value: float | None
    ratio: float | None
    threshold: Stated[float]
    status: Stated[Status]
    reason: str = ""

    @property
    def split(self) -> str:
        """The set that was scored."""
        if self.kind == "kept_score":
            return self.metric.rpartition("/")[0]
        return "retain" if self.kind == "retain_score" else "generic"

    @property
    def is_ceiling(self) -> bool:
        """Whether the threshold is the most that is allowed, not the least."""
        return self.kind in ("generic_kl", "perplexity")

    @property
    def shown(self) -> float | None:
        """The number that is compared with the threshold."""
        return self.value if self.kind == "generic_kl" else self.ratio


def judge_utility(
    table: ScoreTable, subject: str, target: str, transform: str, gate: Gate, *, asked_for: bool
) -> list[UtilityRow]:
    """All utility numbers of one model under one transform.

    What was never scored as the model stands (no retain set, no options, no generic text) is not judged here; what was
    scored there and is missing for the judged model or under this transform is *inconclusive*.

    Args:
        table: All scores of the run.
        subject: The judged model.
        target: The target model.
        transform: The transform.
        gate: Thresholds.
        asked_for: Whether a missing score is *inconclusive*; otherwise what was not scored is not judged.

    Returns:
        One row per judged number; empty where nothing can be judged.
    """
    rows = [
        _judge_ratio(table, subject, target, transform, "retain_score", metric, gate.min_utility)
        for metric in utility_metrics(table, target, gate)
    ]
    rows += [
        _judge_ratio(table, subject, target, transform, "kept_score", f"{split}/{metric}", gate.min_utility)
        for split in gate.utility_sets
        for metric in UTILITY_METRICS
        if table.get(target, IDENTITY, split, metric) is not None
    ]
    if table.get(target, IDENTITY, "generic", "fluency") is not None:
        rows.append(_judge_ratio(table, subject, target, transform, "fluency", "fluency", gate.min_fluency))
    if table.get(subject, IDENTITY, "generic", "kl_to_target") is not None:
        rows.append(_judge_kl(table, subject, transform, gate))
    if gate.max_perplexity_ratio is not None and table.get(target, IDENTITY, "generic", LOG_LOSS) is not None:
        rows.append(_judge_perplexity(table, subject, target, transform, gate.max_perplexity_ratio))
    return [row for row in rows if asked_for or table.get(subject, transform, row.split, _score_name(row)) is not None]


def utility_metrics(table: ScoreTable, target: str, gate: Gate) -> list[str]:
    """Retain metrics to judge: :data:`UTILITY_METRICS` that exist, otherwise the gate's metrics that exist."""
    for wanted in (UTILITY_METRICS, gate.metrics):
        found = [metric for metric in wanted if table.get(target, IDENTITY, "retain", metric) is not None]
        if found:
            return found
    return []


def _score_name(row: UtilityRow) -> str:
    return LOG_LOSS if row.kind == "perplexity" else row.metric.rpartition("/")[2]


def _mean(table: ScoreTable, model: str, transform: str, split: str, metric: str) -> float | None:
    scores = table.get(model, transform, split, metric)
    return None if scores is None else scores.mean


def _judge_ratio(
    table: ScoreTable, subject: str, target: str, transform: str, kind: Kind, metric: str, threshold: float
) -> UtilityRow:
    further, _, name = metric.rpartition("/")
    split = further or ("retain" if kind == "retain_score" else "generic")
    value = _mean(table, subject, transform, split, name)
    before = _mean(table, target, transform, split, name)
    what = f"{split} {name}"
    ratio: float | None = None
    status: Status = "passed"
    reason = ""
    if value is None or before is None:
        status, reason = "inconclusive", f"{what} was not measured for {subject if value is None else target}."
    elif not math.isfinite(value):
        status, reason = "failed", f"{what} is not a finite number."
    elif not math.isfinite(before) or before <= 0:
        status, reason = "inconclusive", f"{what} of the target is {before:.2f}, so there is nothing to compare with."
    else:
        ratio = value / before
        if ratio < threshold:
            status, reason = (
                "failed",
                f"{what} is {value:.2f}, {ratio:.2f} of the target's {before:.2f} (at least {threshold:.2f}).",
            )
    return UtilityRow(
        subject, transform, kind, metric, finite(value), finite(before), finite(ratio), threshold, status, reason
    )


def _judge_kl(table: ScoreTable, subject: str, transform: str, gate: Gate) -> UtilityRow:
    value = _mean(table, subject, transform, "generic", "kl_to_target")
    status: Status = "passed"
    reason = ""
    if value is None:
        status, reason = "inconclusive", f"the KL on generic text was not measured for {subject}."
    elif not value <= gate.max_generic_kl:
        status, reason = (
            "failed",
            f"the KL to the target on generic text is {value:.2f} (at most {gate.max_generic_kl:.2f}).",
        )
    return UtilityRow(
        subject,
        transform,
        "generic_kl",
        "kl_to_target",
        finite(value),
        None,
        None,
        gate.max_generic_kl,
        status,
        reason,
    )


def _judge_perplexity(table: ScoreTable, subject: str, target: str, transform: str, most: float) -> UtilityRow:
    """Of generic text: the exponential of its mean negative log-likelihood (nats per token) over rows."""
    ours, before = (_perplexity(table, model, transform) for model in (subject, target))
    ratio: float | None = None
    status: Status = "passed"
    reason = ""
    if ours is None or before is None:
        status = "inconclusive"
        reason = f"perplexity on generic text was not measured for {subject if ours is None else target}."
    else:
        ratio = ours / before
        if not ratio <= most:
            status = "failed"
            reason = (
                f"perplexity on generic text is {ours:.2f}, {ratio:.2f} times the target's {before:.2f} "
                f"(at most {most:.2f})."
            )
    return UtilityRow(
        subject,
        transform,
        "perplexity",
        "perplexity",
        finite(ours),
        finite(before),
        finite(ratio),
        most,
        status,
        reason,
    )


def _perplexity(table: ScoreTable, model: str, transform: str) -> float | None:
    loss = _mean(table, model, transform, "generic", LOG_LOSS)
    # A mean of some hundred nats is no language any more; its exponential is no number that a report can hold.
    return None if loss is None else math.exp(loss) if loss < MOST_NATS else math.inf
