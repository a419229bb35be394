"""Estimates against hand-made numbers, and intervals against simulated truths."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from hf_unlearn.verification.intervals import (
    MIN_GROUPS,
    Bootstrap,
    Estimate,
    difference,
    least_groups,
    mean_estimate,
    more_needed,
    recovered_share,
    retention_ratio,
    t_quantile,
)
from hf_unlearn.verification.scores import FactScores

FEW = Bootstrap(draws=2000)


def noisy(mean: float, n: int, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [mean + generator.uniform(-0.2, 0.2) for _ in range(n)]


def test_values_are_ratios_of_means(facts) -> None:
    subject, target, never = noisy(0.3, 40, 1), noisy(0.9, 40, 2), noisy(0.1, 40, 3)
    u, t, n = (math.fsum(values) / 40 for values in (subject, target, never))
    share = recovered_share(facts(subject), facts(target), facts(never), FEW)
    assert share.value == pytest.approx((u - n) / (t - n), abs=1e-12)
    assert retention_ratio(facts(subject), facts(target), FEW).value == pytest.approx(u / t, abs=1e-12)
    assert difference(facts(subject), facts(never), FEW, paired=True).value == pytest.approx(u - n, abs=1e-12)
    assert mean_estimate(facts(subject), FEW).value == pytest.approx(u, abs=1e-12)
    assert (share.facts, share.groups) == (40, 40)


def test_interval_agrees_with_a_loop_over_draws(facts) -> None:
    """The same interval from plain Python: draw groups, pool their facts, take the ratio, sort."""
    subject, target, never = noisy(0.3, 60, 1), noisy(0.9, 60, 2), noisy(0.1, 60, 3)
    share = recovered_share(
        facts(subject, 3), facts(target, 3), facts(never, 3), Bootstrap(draws=20_000, confidence=0.9)
    )
    generator = random.Random(0)
    ratios = []
    for _ in range(20_000):
        drawn = [3 * group + k for group in generator.choices(range(20), k=20) for k in range(3)]
        u, t, n = (sum(values[fact] for fact in drawn) for values in (subject, target, never))
        ratios.append((u - n) / (t - n))
    ratios.sort()
    # Expanded level for 20 groups at 90 %: cdf(-sqrt(20/19) * 1.7291), 1.7291 from a t table with 19 degrees.
    tail = 0.5 * math.erfc(math.sqrt(20 / 19) * 1.7291 / math.sqrt(2))
    assert share.interval is not None
    assert share.interval[0] == pytest.approx(ratios[int(tail * 20_000)], abs=0.004)
    assert share.interval[1] == pytest.approx(ratios[int((1 - tail) * 20_000)], abs=0.004)


def test_a_share_that_is_the_same_in_every_fact_has_no_spread_when_paired(facts) -> None:
    target, never = noisy(0.8, 30, 1), noisy(0.1, 30, 2)
    subject = [n + 0.25 * (t - n) for t, n in zip(target, never, strict=True)]
    share = recovered_share(facts(subject), facts(target), facts(never), FEW)
    assert share.interval == pytest.approx((0.25, 0.25), abs=1e-12)
    apart = recovered_share(facts(subject), facts(target), facts(never, prefix="other"), FEW, paired=False)
    assert apart.value == pytest.approx(0.25)
    assert apart.high - apart.low > 0.005


def test_facts_of_one_group_count_once(facts) -> None:
    """Writing every fact down twice, in its group, adds nothing; as groups of their own it would."""
    once = noisy(0.3, 30, 5)
    twice = [value for value in once for _ in range(2)]
    lone = mean_estimate(facts(once), FEW)
    assert mean_estimate(facts(twice, 2), FEW).interval == pytest.approx(lone.interval)
    wrong = mean_estimate(facts(twice, 1), FEW).interval
    assert wrong[1] - wrong[0] < 0.8 * (lone.high - lone.low)


def test_same_scores_same_interval_in_any_order(facts) -> None:
    scores = facts(noisy(0.3, 30, 5))
    turned = FactScores(dict(reversed(scores.values.items())), dict(reversed(scores.groups.items())))
    assert mean_estimate(turned, FEW) == mean_estimate(scores, FEW)
    assert mean_estimate(scores, Bootstrap(draws=2000, seed=1)).interval != mean_estimate(scores, FEW).interval


def test_undefined_where_the_target_knows_no_more(facts) -> None:
    same = noisy(0.1, 40, 2)
    for target in (same, noisy(0.1, 40, 3), noisy(0.0, 40, 4)):
        share = recovered_share(facts(noisy(0.3, 40, 1)), facts(target), facts(same), FEW)
        assert share.interval is None and share.value is None
        assert "does not clearly know more" in share.undefined
    ratio = retention_ratio(facts(noisy(0.3, 40, 1)), facts([0.0] * 40), FEW)
    assert ratio.value is None and "not clearly above zero" in ratio.undefined


def test_a_barely_knowing_target_gives_no_infinite_interval(facts) -> None:
    """Denominators near zero in some draws: the interval is finite and wide, or there is none."""
    for excess in (0.02, 0.03, 0.04, 0.05, 0.06, 0.08):
        never = noisy(0.1, 40, 2)
        target = [value + excess for value in noisy(0.1, 40, 9)]
        share = recovered_share(facts(noisy(0.12, 40, 1)), facts(target), facts(never), FEW)
        assert share.interval is None or all(math.isfinite(end) for end in share.interval)


def test_undefined_with_few_groups_and_with_broken_numbers(facts) -> None:
    few = MIN_GROUPS - 1
    share = recovered_share(facts([0.0] * few), facts([1.0] * few), facts([0.0] * few), FEW)
    assert share.interval is None and f"only {few} groups" in share.undefined
    assert mean_estimate(facts([0.5] * few), FEW).value == 0.5
    broken = [0.0] * 29 + [math.nan]
    share = recovered_share(facts(broken), facts([1.0] * 30), facts([0.0] * 30), FEW)
    assert share.value is None and "finite" in share.undefined
    assert mean_estimate(facts(broken), FEW).value is None


def test_paired_scores_must_be_of_the_same_facts(facts) -> None:
    with pytest.raises(ValueError, match="same facts"):
        recovered_share(facts([0.1] * 20), facts([0.9] * 20), facts([0.0] * 19), FEW)


def test_coverage_of_the_interval() -> None:
    """300 runs of 40 groups of three related facts: the 95 % interval holds the truth in 91 to 98.5 % of them."""
    generator = np.random.default_rng(20)
    truth = (0.35 - 0.10) / (0.90 - 0.10)
    held = 0
    for run in range(300):
        of_group = np.repeat(generator.normal(0, 0.1, 40), 3)
        names = [f"f{number}" for number in range(120)]
        groups = {name: f"g{number // 3}" for number, name in enumerate(names)}
        models = [
            FactScores(
                dict(zip(names, (generator.random(120) < np.clip(mean + of_group, 0, 1)).astype(float), strict=True)),
                groups,
            )
            for mean in (0.35, 0.90, 0.10)
        ]
        # Clipping moves the means a little; the truth that is meant is that of the clipped process.
        share = recovered_share(*models, Bootstrap(draws=500, seed=run))
        held += share.low <= truth <= share.high
    assert 0.91 <= held / 300 <= 0.985


@pytest.mark.parametrize(("freedom", "expected"), [(9, 2.262), (19, 2.093), (30, 2.042), (120, 1.980)])
def test_t_quantile_against_the_table(freedom: int, expected: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=5e-4)


def test_more_needed_by_hand() -> None:
    """Threshold 0.10, value 0.06, upper side 0.08 at 100 facts: (0.08 / 0.04)^2 = 4 times as many."""
    assert more_needed(Estimate(0.06, -0.02, 0.14, 100, 100), 0.10) == 300
    assert more_needed(Estimate(0.18, 0.02, 0.34, 100, 100), 0.10) == 300
    assert more_needed(Estimate(0.10, 0.0, 0.2, 100, 100), 0.10) is None
    assert more_needed(Estimate(None, None, None, 100, 100, "no"), 0.10) is None
    assert more_needed(Estimate(0.0999, 0.0, 0.3, 5000, 100), 0.10) is None


def test_more_needed_settles_it(facts) -> None:
    """With as many more facts of the same kind the interval comes under the threshold, and not much before."""
    pattern = (0.0, 0.3, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.4, 0.0)

    def measured(n: int) -> Estimate:
        subject = [pattern[number % 10] for number in range(n)]
        return recovered_share(facts(subject), facts([1.0] * n), facts([0.0] * n), FEW)

    undecided = measured(60)
    assert undecided.high > 0.10 > undecided.value
    more = more_needed(undecided, 0.10)
    assert more is not None
    assert measured(60 + 10 * round(0.6 * more / 10)).high > 0.10
    assert measured(60 + 10 * round(1.2 * more / 10)).high < 0.10


def test_least_groups_by_hand() -> None:
    """0.9^36 = 0.0225 and 0.9^35 = 0.0250316: 36 facts are the first to go under 0.025."""
    assert least_groups(0.10, 0.95) == 36
    assert least_groups(0.20, 0.95) == 17
    assert least_groups(0.0, 0.95) is None
    assert least_groups(1.0, 0.95) == 1
