"""What a limit of the gate lets through, and what it costs.

Four truths with a share of exactly the limit, at the numbers of groups of facts that data has: how often such a model
passes (it should in 2.5 % of cases at most) and how often it fails. How many groups a model that never knew needs to
pass.

Target and never-knew model of the four truths have a score of 1 and 0 on every fact, so that the share is a mean, and
its interval is read for all runs at once from the draws that
:func:`~hf_unlearn.verification.intervals.recovered_share` has. A test holds both against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.validity.simulate import Kind, Scenario, draw
from hf_unlearn.verification.intervals import (
    Bootstrap,
    expanded_percentiles,
    group_counts,
    group_weights,
    least_groups,
    recovered_share,
)

Truth = Literal["smooth", "two-valued", "sparse", "grouped"]
TRUTHS: tuple[Truth, ...] = get_args(Truth)
LIMITS = (0.10, 0.20)
GROUPS = (20, 36, 50, 80, 150, 240, 400)
TRIED = (36, 50, 70, 100, 140, 200, 280, 400, 560, 800, 1100)
NEVER: dict[Kind, float] = {"one question": 0.25, "eight questions": 0.25, "probability": 0.05}
DRAWS = 1000
_TABLE = 256


@dataclass(frozen=True)
class AtLimit:
    """What became of models whose share is exactly the limit: shares of the runs."""

    truth: Truth
    limit: float
    groups: int
    passed: float
    failed: float


def drawn_groups(
    truth: Truth, share: float, groups: int, runs: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean score and number of facts of every group, ``[groups, runs]`` each; the expected share of all is ``share``.

    Args:
        truth: ``smooth``: a little of every fact is left. ``two-valued``: a fact is known whole or not at all.
            ``sparse``: some facts are known, each to another extent. ``grouped``: whole groups of one to nine facts
            are known or not.
        share: The share.
        groups: Groups; but for the last truth each holds one fact.
        runs: How many times.
        generator: Draws everything.
    """
    shape = (groups, runs)
    sizes = np.ones(shape)
    if truth == "smooth":
        return generator.beta(8 * share, 8 * (1 - share), shape), sizes
    if truth == "sparse":  # uniform between 0 and 1 where there is something, so that twice as many facts have it
        return (generator.random(shape) < 2 * share) * generator.random(shape), sizes
    known = (generator.random(shape) < share).astype(np.float64)
    return known, generator.integers(1, 10, shape).astype(np.float64) if truth == "grouped" else sizes


def interval_ends(
    values: NDArray[np.float64], sizes: NDArray[np.float64], settings: Bootstrap
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ends of the interval of :func:`~hf_unlearn.verification.intervals.recovered_share`, for many runs at once.

    Args:
        values: Mean score of each group, ``[groups, runs]``; target and never-knew model have 1 and 0 everywhere.
        sizes: Facts in each group, ``[groups, runs]``.
        settings: Draws, level and seed.

    Returns:
        Low and high ends ``[runs]``.
    """
    groups, runs = values.shape
    sums = values * sizes
    counts = group_counts(groups, settings.draws, settings.seed).astype(np.float64)
    weights = group_weights(groups + 1, settings.draws, settings.seed).astype(np.float64)
    tail = (1 - settings.confidence) / 2
    low, high = np.empty(runs), np.empty(runs)
    for start in range(0, runs, _TABLE):
        part = slice(start, start + _TABLE)
        resampled = (counts @ sums[:, part]) / (counts @ sizes[:, part])
        added = (sizes[:, part] ** 2).sum(axis=0) / sizes[:, part].sum(axis=0)
        above, below = weights[:, :-1] @ sums[:, part], weights @ np.vstack([sizes[:, part], added])
        highest = (above + weights[:, -1:] * added) / below
        for run, place in enumerate(range(*part.indices(runs))):
            ends = expanded_percentiles(resampled[:, run], groups, settings.confidence)
            # Where a draw ends up in float32 or float64 moves an end by less than 1e-6.
            low[place] = min(ends[0], np.quantile(above[:, run] / below[:, run], tail, method="lower"))
            high[place] = max(ends[1], np.quantile(highest[:, run], 1 - tail, method="higher"))
    return low, high


def at_limit(truth: Truth, limit: float, groups: int, runs: int, seed: int = 0) -> AtLimit:
    """Judge models whose share is exactly the limit.

    Args:
        truth: How the share is spread over facts.
        limit: The limit and the share.
        groups: Groups of facts.
        runs: How often.
        seed: Of everything that is drawn.
    """
    settings = Bootstrap(DRAWS)
    generator = np.random.default_rng([seed, TRUTHS.index(truth), round(100 * limit), groups])
    low, high = interval_ends(*drawn_groups(truth, limit, groups, runs, generator), settings)
    enough = groups >= (least_groups(limit, settings.confidence) or 0)
    return AtLimit(truth, limit, groups, float(np.mean(high <= limit)) if enough else 0.0, float(np.mean(low > limit)))


def passes(kind: Kind, groups: int, limit: float, runs: int, seed: int = 0) -> float:
    """How often a model that never knew passes.

    Args:
        kind: What a fact's score is.
        groups: Groups of one fact each.
        limit: The limit.
        runs: How often.
        seed: Of everything that is drawn.
    """
    settings = Bootstrap(DRAWS)
    generator = np.random.default_rng([seed, list(NEVER).index(kind), groups])
    scenario = Scenario(groups, 1, kind, 0.0, never=NEVER[kind])
    passed = 0
    for _ in range(runs):
        target, never, judged = draw(scenario, generator)
        interval = recovered_share(judged, target, never, settings).interval
        passed += interval is not None and interval[1] <= limit
    return passed / runs


def groups_to_pass(kind: Kind, limit: float, runs: int) -> tuple[int | None, list[tuple[int, float]]]:
    """The smallest number of groups tried with which a model that never knew passes in 90 % of runs.

    Args:
        kind: What a fact's score is.
        limit: The limit.
        runs: Runs of each number.

    Returns:
        The number, ``None`` if the largest is not enough; and how often each number passed up to it.
    """
    tried = []
    for groups in TRIED:
        if groups < (least_groups(limit, 0.95) or 0):
            continue
        tried.append((groups, passes(kind, groups, limit, runs)))
        if tried[-1][1] >= 0.9:
            return groups, tried
    return None, tried


def limit_table(rows: Sequence[AtLimit]) -> str:
    """One line per truth and limit, a column per number of groups."""
    lines = [
        f"| truth | share and limit | {' | '.join(f'{groups} groups' for groups in GROUPS)} |",
        f"|---|---|{'---|' * len(GROUPS)}",
    ]
    for truth in TRUTHS:
        for limit in LIMITS:
            found = {row.groups: row for row in rows if (row.truth, row.limit) == (truth, limit)}
            cells = [f"{found[groups].passed:.1%} / {found[groups].failed:.1%}" for groups in GROUPS]
            lines.append(f"| {truth} | {limit:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(runs: int) -> str:
    """One line per kind of score and limit."""
    lines = ["| score | limit | groups for 90 % | passed with fewer |", "|---|---|---|---|"]
    for kind in NEVER:
        for limit in LIMITS:
            enough, tried = groups_to_pass(kind, limit, runs)
            fewer = ", ".join(f"{groups}: {rate:.0%}" for groups, rate in tried if groups != enough)
            lines.append(
                f"| {kind} | {limit:.2f} | {enough or f'more than {TRIED[-1]}'} | {fewer or 'fewer cannot show it'} |"
            )
    return "\n".join(lines)


def sections(runs: int) -> list[str]:
    """The lines of the page that this file makes.

    Args:
        runs: Runs of what is simulated one by one; what is simulated at once has ten times as many.
    """
    many = 10 * runs
    rows = [at_limit(truth, limit, groups, many) for truth in TRUTHS for limit in LIMITS for groups in GROUPS]
    worst_pass, worst_fail = max(row.passed for row in rows), max(row.failed for row in rows)
    noise = 2.58 * (0.025 * 0.975 / many) ** 0.5
    return [
        "## At the limit",
        "",
        f"Passed / failed, of models whose share is exactly the limit, {many:,} runs of each. At most 2.5 % of each "
        f"should be seen; with 99 % probability a true 2.5 % is seen as at most {0.025 + noise:.1%}. The largest are "
        f"{worst_pass:.1%} passed and {worst_fail:.1%} failed. *Smooth*: a little of every fact is left. *Two-valued*:"
        " a fact is known whole or not at all. *Sparse*: some facts are known, each to another extent. *Grouped*: "
        "whole groups of one to nine facts are known or not. With 20 groups a limit of 0.10 is never passed, because "
        "36 are the least.",
        "",
        limit_table(rows),
        "",
        "## What a model that never knew needs",
        "",
        f"Groups of one fact with which it passes one share in 90 % of {runs:,} runs (tried: "
        f"{', '.join(map(str, TRIED))}), against another never-knew model. By four options never-knew models have "
        "0.25, by probability 0.05.",
        "",
        cost_table(runs),
        "",
    ]
