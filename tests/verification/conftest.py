"""Small score tables with known answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.scores import FactScores, ScoreKey, ScoreTable

METRICS = ("probability", "mc_accuracy")


def facts_of(values: Sequence[float], group_size: int = 1, prefix: str = "f") -> FactScores:
    """Facts f0, f1, ... in groups of equal size."""
    named = {f"{prefix}{number}": value for number, value in enumerate(values)}
    return FactScores(named, {name: f"{prefix}g{number // group_size}" for number, name in enumerate(named)})


class Scenario:
    """A table in which every model has a level on every set under every transform, with a little noise."""

    def __init__(self, transforms: Sequence[str], n: int = 120, metrics: Sequence[str] = METRICS) -> None:
        self.table = ScoreTable()
        self.transforms, self.n, self.metrics = transforms, n, metrics

    def model(
        self, name: str, forget: float, *, retain: float | None = 0.95, holdout: float | None = None, **at: float
    ):
        """Add a model; ``at`` gives the forget level under single transforms."""
        for transform in self.transforms:
            level = at.get(transform.replace("-", "_"), forget)
            for split, mean in (("forget", level), ("retain", retain), ("holdout", holdout)):
                if mean is not None:
                    self.add(name, transform, split, mean)
        return self

    def add(self, name: str, transform: str, split: str, mean: float, metrics: Sequence[str] | None = None) -> None:
        """Add scores of one set under one transform."""
        for metric in metrics or self.metrics:
            noise = random.Random(f"{name}{transform}{split}{metric}")
            values = [mean + noise.uniform(-0.03, 0.03) for _ in range(self.n)]
            self.table.add(ScoreKey(name, transform, split, metric), facts_of(values, prefix=split))

    def drop(self, name: str, transform: str, split: str | None = None, metric: str | None = None) -> None:
        """Remove scores."""
        self.table.scores = {
            key: value
            for key, value in self.table.scores.items()
            if not (
                (key.model, key.transform) == (name, transform)
                and split in (None, key.split)
                and metric in (None, key.metric)
            )
        }


@pytest.fixture
def facts() -> Callable[..., FactScores]:
    return facts_of


@pytest.fixture
def scenario() -> type[Scenario]:
    return Scenario


@pytest.fixture
def gate() -> Gate:
    return Gate(metrics=METRICS, formats=("bnb-nf4",), attacks=("rtt",), draws=500)


@pytest.fixture
def plain(scenario: type[Scenario]) -> Scenario:
    """A target that knows, a model that never knew, and a model that forgot."""
    made = scenario(("identity", "bnb-nf4", "rtt"))
    return made.model("target", 0.95).model("never_knew", 0.05).model("good", 0.05)
