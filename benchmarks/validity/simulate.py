"""Scores of models whose true recovered share is known exactly, because they were drawn that way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from hf_unlearn.verification.scores import FactScores

Kind = Literal["one question", "eight questions", "probability"]


@dataclass(frozen=True)
class Scenario:
    """One way in which scores come about.

    Attributes:
        groups: Groups of facts, drawn independently.
        facts: Facts in each group; they share the group's difficulty.
        kind: What a fact's score is: right or wrong, the mean of eight such, or a probability.
        share: The true recovered share.
        target: Mean score of the target.
        never: Mean score of the never-knew model.
        spread: How much groups differ, from 0 (not at all) to below 1; the variance of a group's mean is this share of
            the largest possible one.
    """

    groups: int
    facts: int
    kind: Kind
    share: float
    target: float = 0.95
    never: float = 0.25
    spread: float = 0.15

    @property
    def unlearned(self) -> float:
        """Mean score of the unlearned model."""
        return self.never + self.share * (self.target - self.never)


def draw(scenario: Scenario, generator: np.random.Generator, unlearned: int = 1) -> list[FactScores]:
    """Scores of the target, the never-knew model and as many unlearned ones as asked for, of the same facts.

    A group's difficulty is one uniform number, the same for all models: each model's chance to be right there is that
    quantile of a beta distribution with the model's mean. Answers are then drawn independently, so that the expected
    score of every model is exactly its mean.

    Args:
        scenario: How.
        generator: Draws everything.
        unlearned: Number of unlearned scores, such as one per transform; they share the groups' difficulty.
    """
    hard = generator.random(scenario.groups)
    means = [scenario.target, scenario.never, *[scenario.unlearned] * unlearned]
    return [_facts(_scores(scenario, mean, hard, generator), scenario) for mean in means]


def _scores(
    scenario: Scenario, mean: float, hard: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    weight = 1 / scenario.spread - 1
    chance = beta.ppf(hard, mean * weight, (1 - mean) * weight)
    chance = np.repeat(np.clip(chance, 1e-9, 1 - 1e-9), scenario.facts)
    if scenario.kind == "probability":  # one number between 0 and 1, with the chance as its mean
        return generator.beta(chance * 4, (1 - chance) * 4)
    questions = 8 if scenario.kind == "eight questions" else 1
    return generator.binomial(questions, chance) / questions


def _facts(values: Sequence[float] | NDArray[np.float64], scenario: Scenario) -> FactScores:
    names = _names(len(values))
    groups = {name: f"g{number // scenario.facts}" for number, name in enumerate(names)}
    return FactScores(dict(zip(names, map(float, values), strict=True)), groups)


def _names(count: int) -> list[str]:
    return [f"f{number:05d}" for number in range(count)]
