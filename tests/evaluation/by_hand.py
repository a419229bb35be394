"""Scores written out with plain loops in float64, from the formulas and not from the package."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hf_unlearn.evaluation.records import AnswerScore, ScoredRow


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def min_k(logps: Sequence[float], share: float) -> float:
    left, taken = list(logps), []
    for _ in range(max(1, int(len(logps) * share))):
        lowest = left[0]
        for value in left:
            if value < lowest:
                lowest = value
        left.remove(lowest)
        taken.append(lowest)
    return -mean(taken)


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    won = 0.0
    for one in members:
        for other in others:
            won += 1.0 if one < other else 0.5 if one == other else 0.0
    return won / (len(members) * len(others))


def tpr(members: Sequence[float], others: Sequence[float], fpr: float) -> float:
    best = 0.0
    for threshold in [*members, *others]:
        false = sum(value <= threshold for value in others) / len(others)
        if false <= fpr:
            best = max(best, sum(value <= threshold for value in members) / len(members))
    return best


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def f1(shared: int, answer: int, text: int) -> float:
    return 2 * shared / (answer + text) if shared else 0.0


def ks_statistic(one: Sequence[float], other: Sequence[float]) -> float:
    return max(
        abs(sum(v <= x for v in one) / len(one) - sum(v <= x for v in other) / len(other)) for x in [*one, *other]
    )


def random_row(number: int, split: str, generator: random.Random, low: float = -6.0) -> ScoredRow:
    """A record with everything that metrics read, of random numbers."""
    tokens = generator.randint(1, 30)
    logps = tuple(generator.uniform(low, -0.01) for _ in range(tokens))

    def answers(count: int) -> tuple[AnswerScore, ...]:
        lengths = [generator.randint(1, 20) for _ in range(count)]
        return tuple(AnswerScore(length * generator.uniform(-6.0, -0.01), length) for length in lengths)

    words = ["river", "towns", "lovely", "running", "the", "of", "a", "1987"]
    return ScoredRow(
        f"{split}-{number}",
        f"{split}-{number}",
        f"{split}-{number}",
        split,
        logps=logps,
        hits=tuple(generator.random() < 0.6 for _ in range(tokens)),
        choice_logps=tuple(generator.uniform(-9.0, -0.1) for _ in range(4)),
        choice_lengths=tuple(generator.randint(1, 9) for _ in range(4)),
        right_choice=generator.randrange(4),
        answer=" ".join(generator.choices(words, k=9)),
        generated=" ".join(generator.choices(words, k=12)),
        vocab_means=tuple(generator.uniform(-5.0, -0.5) for _ in range(tokens)),
        vocab_variances=tuple(generator.uniform(0.0, 4.0) for _ in range(tokens)),
        variants={"paraphrased": answers(1), "perturbed": answers(5)},
        prior_logps=tuple(generator.uniform(-9.0, -0.1) for _ in range(4)),
        layer_logps=tuple(generator.uniform(-9.0, -0.1) for _ in range(3)),
        grad_norm=generator.uniform(0.1, 9.0),
        samples=tuple(" ".join(generator.choices(words, k=12)) for _ in range(2)),
    )


def random_rows(split: str, count: int, seed: int, low: float = -6.0) -> list[ScoredRow]:
    generator = random.Random(f"{split}{seed}")
    return [random_row(number, split, generator, low) for number in range(count)]
