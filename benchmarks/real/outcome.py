"""What one run says of one method: shares, single facts, what is kept, cost and verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

JUDGED = ("probability", "mc_accuracy")
"""Answer probability and four options. Whole greedy answers say little of what a pretrained model knows."""
PLAIN_CONDITION = "identity"


@dataclass(frozen=True)
class Outcome:
    """One method on one set of facts with one seed.

    Attributes:
        facts: Name of the set.
        seed: Of the split, of training and of attacks.
        method: Its name.
        status: Its verdict.
        identity: Recovered share as it stands, by metric.
        formats: The largest recovered share over all formats, by metric.
        lowest: The smallest recovered share over full precision and all formats, by metric.
        attacks: The largest recovered share under each attack that the gate names, by attack.
        known: Single facts still known, ``[found, allowed, asked]``, by condition.
        kept: Retain probability over the target's, the least of full precision and all formats.
        others: The same of each further set, as it stands.
        perplexity: Of generic text over the target's, as it stands; ``None`` if it was not measured.
        operations: Floating-point operations of training.
        seconds: Of training; they depend on what else the machine did.
        rate: The learning rate that was found, where it was looked for.
        made: The day, the type of the weights that are scored, epochs of RTT, and versions.
    """

    facts: str
    seed: int
    method: str
    status: str
    identity: Mapping[str, float | None]
    formats: Mapping[str, float | None]
    lowest: Mapping[str, float | None]
    attacks: Mapping[str, float | None]
    known: Mapping[str, tuple[int, int | None, int]]
    kept: float | None
    others: Mapping[str, float]
    perplexity: float | None
    operations: float
    seconds: float
    rate: float | None
    made: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """As plain data for a file."""
        return asdict(self)


def outcome_of(report: Mapping[str, Any], training: Mapping[str, Any], facts: str, seed: int, method: str) -> Outcome:
    """Reads one method out of a run's report.

    Args:
        report: The run's report.
        training: What training wrote down of the method.
        facts: Name of the set.
        seed: The run's.
        method: The model's name in the report.
    """
    gate = report["gate"]
    shares = {
        (row["transform"], row["metric"]): row["recovered_share"]
        for row in report["recovered"]
        if row["model"] == method
    }
    plain = (PLAIN_CONDITION, *gate["formats"])
    by = {metric: {name: shares.get((name, metric)) for name in (*plain, *gate["attacks"])} for metric in JUDGED}
    judged = {each["name"]: each["status"] for each in report["candidates"]}
    return Outcome(
        facts=facts,
        seed=seed,
        method=method,
        status=judged[method],
        identity={metric: by[metric][PLAIN_CONDITION] for metric in JUDGED},
        formats={metric: _most(by[metric][name] for name in gate["formats"]) for metric in JUDGED},
        lowest={metric: _least(by[metric][name] for name in plain) for metric in JUDGED},
        attacks={name: _most(by[metric][name] for metric in JUDGED) for name in gate["attacks"]},
        known={
            row["transform"]: (row["known"], row["allowed"], row["n"])
            for row in report["known_facts"]
            if row["model"] == method and row["metric"] == "combined"
        },
        kept=_least(_ratio(report, method, name, "retain") for name in plain),
        others={
            split: ratio
            for split in _further_sets(report)
            if (ratio := _ratio(report, method, PLAIN_CONDITION, split)) is not None
        },
        perplexity=next(
            (
                row["ratio"]
                for row in report["utility"]
                if (row["model"], row["transform"], row["kind"]) == (method, PLAIN_CONDITION, "perplexity")
            ),
            None,
        ),
        operations=float(training.get("floating_point_ops", 0)),
        seconds=float(training.get("seconds", 0)),
        rate=training["learning_rate"]["rate"] if "learning_rate" in training else None,
        made={"date": report["created"][:10], **_how(report), **_versions(report)},
    )


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _ratio(report: Mapping[str, Any], method: str, transform: str, split: str) -> float | None:
    """Answer probability of a set over the target's under the same condition."""
    means = {
        row["model"]: row["value"]
        for row in report["scores"]
        if (row["transform"], row["split"], row["metric"]) == (transform, split, "probability")
    }
    return means[method] / means["target"] if method in means and means.get("target") else None


def _how(report: Mapping[str, Any]) -> dict[str, str]:
    """Type of the weights that are scored, and epochs of RTT."""
    epochs = next((each["budget"]["epochs"] for each in report["attacks"] if each["name"] == "rtt"), "none")
    return {"in": report["environment"]["dtype"], "RTT epochs": str(epochs)}


def _further_sets(report: Mapping[str, Any]) -> list[str]:
    named = {row["split"] for row in report["scores"] if row["metric"] == "probability"}
    return sorted(named - {"forget", "retain", "holdout", "generic"})


def _versions(report: Mapping[str, Any]) -> dict[str, str]:
    found = report["environment"].get("versions", report["environment"])
    return {name: str(found[name]) for name in ("hf_unlearn", "torch", "transformers") if name in found}
