"""Paired differences of two evaluated folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RequestError
from ...verification.intervals import difference
from ..records import ScoredRow
from ..run import fact_scores
from .references import check_same_rows
from .result import all_records, bootstrap_for, by_set, read_result


@dataclass(frozen=True)
class Difference:
    """One score of two models.

    Attributes:
        set: The set; empty for an aggregate.
        metric: The metric or aggregate.
        first: Score of the first model.
        second: Score of the second model.
        difference: ``second - first``.
        ci95: Paired 95 % interval of the difference over groups; ``None`` where there is none (aggregates, and sets
            of too few groups).
        n: Number of facts both have; for an aggregate that of the second model.
    """

    set: str
    metric: str
    first: float
    second: float
    difference: float
    ci95: tuple[float, float] | None
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)


@dataclass(frozen=True)
class Comparison:
    """Two evaluated folders.

    Attributes:
        first, second: What their ``suite.json`` hold.
        differences: In the order of sets, aggregates last.
        notes: What differs between the two evaluations and does not forbid to compare them.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare_folders(first: Path, second: Path) -> Comparison:
    """Compare two models that were evaluated with the same suite on the same rows.

    Raises:
        RequestError: The two were not evaluated in the same way or not on the same rows; the first row that differs
            is named.
    """
    one, other = read_result(first), read_result(second)
    _check_same_request(one, other, first, second)
    records, others = all_records(first, one), all_records(second, other)
    grouped, grouped_other = by_set(records), by_set(others)
    for name in (*grouped, *grouped_other):
        check_same_rows(grouped_other.get(name, []), grouped.get(name, []), f"{first} and {second} ({name})")
    order = [(name, metric) for name, metrics in one["scores"].items() for metric in metrics]
    rows = sorted(_row_differences(records, others), key=lambda found: order.index((found.set, found.metric)))
    found = [*rows, *_aggregate_differences(one, other)]
    if not found:
        raise RequestError(f"{first} and {second} have no score in common")
    return Comparison(one, other, tuple(found), tuple(_notes(one, other)))


def _check_same_request(one: Mapping[str, Any], other: Mapping[str, Any], first: Path, second: Path) -> None:
    names = one["suite"]["name"], other["suite"]["name"]
    if names[0] != names[1]:
        raise RequestError(f"{first} was evaluated with the suite {names[0]} and {second} with {names[1]}")
    for metric in one["score_versions"].keys() & other["score_versions"].keys():
        versions = one["score_versions"][metric], other["score_versions"][metric]
        if versions[0] != versions[1]:
            raise RequestError(
                f"{metric} has score version {versions[0]} in {first} and {versions[1]} in {second}: evaluate the "
                "older one again"
            )
    for name in one["sets"].keys() & other["sets"].keys():
        texts = one["sets"][name]["format"], other["sets"][name]["format"]
        if texts[0] != texts[1]:
            raise RequestError(
                f"the set {name} was asked as {texts[0]} text in {first} and as {texts[1]} text in {second}: evaluate "
                f"both with set.{name}.format={texts[0]}"
            )
    if one["suite"]["digest"] != other["suite"]["digest"]:
        differing = _first_difference(one["settings"], other["settings"])
        raise RequestError(
            f"{first} and {second} were evaluated with different settings of the suite {names[0]} ({differing}): "
            "evaluate both with the same"
        )


def _first_difference(one: Any, other: Any, key: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name) and name not in ("path", "dataset", "config", "split", "limit"):
                return _first_difference(one.get(name), other.get(name), f"{key}.{name}" if key else name)
    return key or "a key that has its default in one of them"


def _row_differences(records: list[ScoredRow], others: list[ScoredRow]) -> list[Difference]:
    first, second = fact_scores(records), fact_scores(others)
    found = []
    for name, metric in first:
        if (name, metric) not in second:
            continue
        one, other = first[name, metric], second[name, metric]
        if one.values.keys() != other.values.keys():
            odd = sorted(one.values.keys() ^ other.values.keys())[0]
            raise RequestError(f"only one of the two has {metric} for {odd!r} of the set {name}: evaluate both again")
        paired = difference(other, one, bootstrap_for(one), paired=True)
        change = other.mean - one.mean
        found.append(
            Difference(name, metric, one.mean, other.mean, change, paired.interval, len(one.values)),
        )
    return found


def _aggregate_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    found = []
    for name, value in one["aggregates"].items():
        if name in other["aggregates"]:
            first, second = value["value"], other["aggregates"][name]["value"]
            n = other["aggregates"][name]["n"]
            found.append(Difference("", name, first, second, second - first, None, n))
    return found


def _notes(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    notes = []
    if one["dtype"] != other["dtype"]:
        notes.append(f"weights were {one['dtype']} in the first and {other['dtype']} in the second")
    if one["model"]["digest"] == other["model"]["digest"]:
        notes.append("both folders are evaluations of the same model files")
    changed = [
        f"{name} {one['versions'].get(name)} and {other['versions'].get(name)}"
        for name in ("torch", "transformers", "tokenizers")
        if one["versions"].get(name) != other["versions"].get(name)
    ]
    if changed:
        notes.append(f"libraries differ: {', '.join(changed)}")
    if one["reference"] != other["reference"]:
        notes.append("the two have different references: numbers against a reference cannot be compared")
    return notes
