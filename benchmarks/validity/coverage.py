"""Do the intervals hold what they promise? Coverage on simulated truths.

    python -m benchmarks.validity.coverage                       # the tables, about three minutes on one core
    python -m benchmarks.validity.coverage --runs 200            # a quick look
    python -m benchmarks.validity.coverage --write               # into benchmarks/validity/coverage.md

Scores are drawn from models whose true recovered share is known (``simulate.py``) and put through the package's own
functions. First table: how often the 95 % interval of one share holds the truth. Second: how often the joint intervals
of many shares hold all truths at once, how often a model that never knew is failed by single and by joint intervals,
and how often a model that is exactly at the limit under one transform is passed. Then, from ``limits.py``: models at
the limit whose facts are known whole, sparsely or by groups, what passing costs, and counts of single facts.
"""

from __future__ import annotations

import datetime
import itertools
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.pages import run_simulation
from benchmarks.validity.limits import sections
from benchmarks.validity.simulate import Kind, Scenario, draw
from hf_unlearn.verification.intervals import Bootstrap, drawn_share, least_groups, recovered_share
from hf_unlearn.verification.simultaneous import family_of

PAGE = Path(__file__).with_name("coverage.md")
MISSED = 0.025
"""What either side of an interval may miss at most."""
KINDS: tuple[Kind, ...] = ("one question", "eight questions", "probability")
DRAWS = 1000
# Many shares cost many bootstraps: they get this part of the runs.
JOINT_PART = 2
LIMIT = 0.10


@dataclass(frozen=True)
class Coverage:
    """How often the interval of one share held the truth.

    Attributes:
        scenario: How scores came about.
        runs: Simulated runs.
        held: Runs in which it did.
        below: Runs in which the whole interval was under the truth.
        above: Runs in which it was over the truth.
        undefined: Runs without an interval.
    """

    scenario: Scenario
    runs: int
    held: int
    below: int
    above: int
    undefined: int

    @property
    def rate(self) -> float:
        """Share of the intervals that held the truth."""
        return self.held / max(self.runs - self.undefined, 1)

    @property
    def keeps(self) -> bool:
        """Whether neither side missed the truth more often than it may, as far as so many runs can tell."""
        counted = max(self.runs - self.undefined, 1)
        return max(self.below, self.above) / counted <= MISSED + noise_of(counted)


def noise_of(runs: int) -> float:
    """How much more than :data:`MISSED` may be seen by chance, with 99 % probability."""
    return float(2.33 * (MISSED * (1 - MISSED) / runs) ** 0.5)


def scenarios() -> Iterator[Scenario]:
    """Every case of the first table."""
    for (groups, facts), kind, share in itertools.product(
        ((15, 3), (40, 1), (120, 1), (120, 3), (400, 1)), KINDS, (0.0, 0.1, 0.5)
    ):
        never = 0.05 if kind == "probability" else 0.25
        yield Scenario(groups, facts, kind, share, never=never)


def coverage(scenario: Scenario, runs: int, seed: int = 0, draws: int = DRAWS) -> Coverage:
    """Simulate one case.

    Args:
        scenario: The case.
        runs: How often.
        seed: Of everything that is drawn.
        draws: Bootstrap draws of each interval.
    """
    generator = np.random.default_rng([seed, scenario.groups, scenario.facts, round(1000 * scenario.share)])
    held = below = above = undefined = 0
    for _ in range(runs):
        target, never, unlearned = draw(scenario, generator)
        interval = recovered_share(unlearned, target, never, Bootstrap(draws)).interval
        if interval is None:
            undefined += 1
            continue
        below += interval[1] < scenario.share
        above += interval[0] > scenario.share
        held += interval[0] <= scenario.share <= interval[1]
    return Coverage(scenario, runs, held, below, above, undefined)


@dataclass(frozen=True)
class Joint:
    """What became of many shares judged together.

    Attributes:
        shares: How many.
        facts: Facts, each a group of its own.
        runs: Simulated runs.
        held_singly: Runs in which all single intervals held the truth.
        held_jointly: Runs in which all joint intervals did.
        failed_singly: Runs in which a model that never knew would have failed by a single interval.
        failed_jointly: The same by a joint interval.
        passed_at_limit: Runs in which a model that is at the limit under one of the transforms passed.
        factor: Mean length of joint intervals over single ones.
    """

    shares: int
    facts: int
    runs: int
    held_singly: float
    held_jointly: float
    failed_singly: float
    failed_jointly: float
    passed_at_limit: float
    factor: float


def joint(shares: int, facts: int, runs: int, seed: int = 0) -> Joint:
    """Simulate a verdict over many shares of a model that never knew, and of one that is at the limit in one of them.

    Args:
        shares: How many are judged.
        facts: Facts.
        runs: How often.
        seed: Of everything that is drawn.
    """
    generator = np.random.default_rng([seed, shares, facts])
    settings = Bootstrap(DRAWS)
    clean = Scenario(facts, 1, "eight questions", 0.0)
    at_limit = replace(clean, share=LIMIT)
    counts = np.zeros(5)
    factors = []
    for _ in range(runs):
        target, never, *unlearned = draw(clean, generator, shares)
        drawn = [drawn_share(one, target, never, settings) for one in unlearned]
        family = family_of(drawn, settings.confidence)
        factors.append(family.factor)
        single = [one.estimate.interval or (-np.inf, np.inf) for one in drawn]
        together = [family.interval(one.estimate) or (-np.inf, np.inf) for one in drawn]
        counts[0] += all(low <= 0 <= high for low, high in single)
        counts[1] += all(low <= 0 <= high for low, high in together)
        # A limit of zero is the hardest there is: the truth is on it, so that every miss above it is a failure.
        counts[2] += any(low > 0 for low, _ in single)
        counts[3] += any(low > 0 for low, _ in together)
        target, never, known = draw(at_limit, generator)
        highest = recovered_share(known, target, never, settings).interval
        enough = facts >= (least_groups(LIMIT, settings.confidence) or 0)
        counts[4] += highest is not None and highest[1] <= LIMIT and enough and all(h <= LIMIT for _, h in single[1:])
    return Joint(shares, facts, runs, *(counts / runs), factor=float(np.mean(factors)))


def coverage_table(rows: Sequence[Coverage]) -> str:
    """One line per case."""
    lines = [
        "| groups | facts in each | score | true share | interval holds it | below it | above it | 2.5 % a side |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        case, counted = row.scenario, max(row.runs - row.undefined, 1)
        fits = "yes" if row.keeps else "**no**"
        lines.append(
            f"| {case.groups} | {case.facts} | {case.kind} | {case.share:.2f} | {row.rate:.1%} | "
            f"{row.below / counted:.1%} | {row.above / counted:.1%} | {fits} |"
        )
    return "\n".join(lines)


def joint_table(rows: Sequence[Joint]) -> str:
    """One line per number of shares."""
    lines = [
        "| shares | facts | all single intervals hold | all joint ones hold | joint / single length | "
        "never-knew failed, single | never-knew failed, joint | at the limit once, passed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.shares} | {row.facts} | {row.held_singly:.1%} | {row.held_jointly:.1%} | {row.factor:.2f} | "
        f"{row.failed_singly:.1%} | {row.failed_jointly:.1%} | {row.passed_at_limit:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def page(runs: int) -> str:
    """The whole page."""
    single = [coverage(case, runs) for case in scenarios()]
    cases = ((1, 120), (6, 120), (18, 120), (18, 400), (60, 120))
    together = [joint(shares, facts, runs // JOINT_PART) for shares, facts in cases]
    inside = sum(row.keeps for row in single)
    rates = [row.rate for row in single]
    return "\n".join(
        [
            "# Coverage of the intervals",
            "",
            "Made by `python -m benchmarks.validity.coverage --write`, "
            f"{datetime.date.today().isoformat()}, numpy {np.__version__}, Python {platform.python_version()}. "
            f"{runs:,} runs of each case, {DRAWS:,} bootstrap draws. Either side of an interval may miss the truth in "
            f"2.5 % of runs; with 99 % probability that is seen as at most {MISSED + noise_of(runs):.1%}. Intervals "
            "are longer than that takes where facts are few or coarse, because they never end before an exact bound.",
            "",
            "## One share",
            "",
            f"{inside} of {len(single)} cases keep this on both sides. The interval holds the truth in "
            f"{min(rates):.1%} of runs at least, {max(rates):.1%} at most, and {np.mean(rates):.1%} on average.",
            "",
            coverage_table(single),
            "",
            "## Many shares judged together",
            "",
            f"Means of eight questions, facts in groups of one, {runs // JOINT_PART:,} runs. *Failed* is counted "
            "against a limit of 0, on which a never-knew model lies exactly: against the limits of a gate it is far "
            f"rarer. *At the limit once*: one transform brings exactly {LIMIT:.2f} back and the others nothing; more "
            "than 2.5 % passes would be too many.",
            "",
            joint_table(together),
            "",
            *sections(runs),
        ]
    )


def main() -> None:
    """Simulate and print, or write, the tables."""
    run_simulation(__doc__, PAGE, page, 300)


if __name__ == "__main__":
    main()
