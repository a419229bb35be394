"""What one cell says of one method: recovered shares with intervals, utility and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.frontier.kinds import FORMATS

JUDGED = ("probability", "mc_accuracy")
"""Answer probability and multiple choice. Greedy accuracy alone is fooled, so it is not asked."""


@dataclass(frozen=True)
class Outcome:
    """One method on one kind of fact with one seed.

    Attributes:
        kind: Kind of fact.
        seed: Of data, models and training.
        method: Its name.
        identity: Recovered share as it stands, by metric.
        formats: The largest recovered share over all formats, by metric.
        lowest: The smallest recovered share over full precision and all formats, by metric.
        rtt: Recovered share under retraining, by metric.
        rtt_interval: Its 95 % interval over facts, by metric.
        utility: Retain probability over the target's, the least of full precision and all formats.
        fluency: Fluency of free text over the target's, the least of them; ``None`` if it was not measured.
        operations: Floating-point operations of training.
        seconds: Of training.
    """

    kind: str
    seed: int
    method: str
    identity: Mapping[str, float]
    formats: Mapping[str, float]
    lowest: Mapping[str, float]
    rtt: Mapping[str, float]
    rtt_interval: Mapping[str, tuple[float, float]]
    utility: float
    fluency: float | None
    operations: float
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As plain data for a file."""
        return asdict(self)


def outcome_of(report: Mapping[str, Any], training: Mapping[str, Any], kind: str, seed: int, method: str) -> Outcome:
    """Reads one method out of a cell's report.

    Args:
        report: The report of the cell.
        training: What training wrote down of the method.
        kind: Kind of fact.
        seed: The cell's.
        method: The model's name in the report.

    Raises:
        KeyError: The report has no such model, or the model was not scored under a transform.
        ValueError: The report gives no share, for example because too few groups of facts were attacked.
    """
    shares = {(row["transform"], row["metric"]): row for row in report["recovered"] if row["model"] == method}

    def share(transform: str, metric: str) -> float:
        row = shares[transform, metric]
        if row["recovered_share"] is None:
            raise ValueError(f"{kind} {seed}: {method} has no {metric} under {transform}: {row['reason']}")
        return float(row["recovered_share"])

    plain = ("identity", *FORMATS)
    kept = [row for row in report["utility"] if row["model"] == method and row["transform"] in plain]
    ratios = [row["ratio"] for row in kept if (row["kind"], row["metric"]) == ("retain_score", "probability")]
    fluency = [row["ratio"] for row in kept if row["kind"] == "fluency" and row["ratio"] is not None]
    return Outcome(
        kind=kind,
        seed=seed,
        method=method,
        identity={metric: share("identity", metric) for metric in JUDGED},
        formats={metric: max(share(name, metric) for name in FORMATS) for metric in JUDGED},
        lowest={metric: min(share(name, metric) for name in plain) for metric in JUDGED},
        rtt={metric: share("rtt", metric) for metric in JUDGED},
        rtt_interval={metric: tuple(shares["rtt", metric]["ci95"]) for metric in JUDGED},
        utility=min(ratios),
        fluency=min(fluency, default=None),
        operations=float(training.get("floating_point_ops", 0)),
        seconds=float(training.get("seconds", 0)),
    )
