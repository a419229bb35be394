"""Estimates against hand-made numbers, and intervals against simulated truths."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.stats import beta

from hf_unlearn.verification.intervals import (
    MIN_GROUPS,
    Bootstrap,
    Estimate,
    difference,
    drawn_share,
    least_groups,
    least_limit,
    mean_estimate,
    more_needed,
    recovered_share,
    retention_ratio,
    t_quantile,
)
from hf_unlearn.verification.recovered import Limits, decide
from hf_unlearn.verification.scores import FactScores
from hf_unlearn.verification.simultaneous import family_of

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
    # Twenty groups are few: both ends are Gaffke's, whose extra group is known as the target knows it, or not at all.
    sums = [[sum(values[3 * group : 3 * group + 3]) for values in (subject, target, never)] for group in range(20)]
    ends = []
    for known, place in ((0.0, 0.05), (1.0, 0.95)):
        shares = []
        for _ in range(20_000):
            rows = [*sums, [3 * known, 3.0, 0.0]]
            weights = [generator.expovariate(1.0) for _ in rows]
            u, t, n = (math.fsum(w * row[k] for w, row in zip(weights, rows, strict=True)) for k in range(3))
            shares.append((u - n) / (t - n))
        ends.append(sorted(shares)[int(place * 20_000)])
    assert ends[0] < ratios[int(tail * 20_000)] and ratios[int((1 - tail) * 20_000)] < ends[1]
    assert share.interval == pytest.approx(ends, abs=0.006)


@pytest.mark.parametrize(("known", "groups"), [(0, 36), (1, 54), (1, 36), (4, 80), (30, 60)])
def test_scores_of_zero_and_one_have_the_exact_bounds_of_clopper_and_pearson(facts, known: int, groups: int) -> None:
    """97.5 % bounds of a binomial share, by the beta distribution; the interval is never shorter."""
    subject = [1.0] * known + [0.0] * (groups - known)
    share = recovered_share(facts(subject), facts([1.0] * groups), facts([0.0] * groups), Bootstrap(draws=20_000))
    upper = beta.ppf(0.975, known + 1, groups - known)
    lower = beta.ppf(0.025, known, groups - known + 1) if known else 0.0
    assert share.high >= upper - 0.004
    assert share.low <= lower + 0.004
    if known <= 1:  # where the bootstrap sees least, the exact bounds are what counts
        assert share.high == pytest.approx(upper, abs=0.004)


SPARSE = 200
"""Simulated runs of each case: a rate of 2.5 % shows as 4.7 % or less in 97.5 % of the times."""


@pytest.mark.parametrize(
    ("groups", "each", "limit"),
    [(36, 1, 0.10), (50, 1, 0.10), (80, 1, 0.10), (240, 1, 0.10), (20, 1, 0.20), (60, 1, 0.20), (40, 20, 0.10)],
)
def test_facts_known_whole_or_not_at_all_pass_wrongly_in_a_fortieth_of_the_runs(
    facts, groups: int, each: int, limit: float
) -> None:
    """The true share is exactly the limit. The bootstrap alone passes 4 to 11 % of these, and by counting facts in
    place of groups still more."""
    generator = np.random.default_rng(groups)
    n = groups * each
    target, never = facts([1.0] * n, each), facts([0.0] * n, each)
    passed = 0
    for _ in range(SPARSE):
        known = np.repeat((generator.random(groups) < limit).astype(float), each)
        drawn = drawn_share(facts([*map(float, known)], each), target, never, Bootstrap(draws=1000))
        family = family_of([drawn], 0.95)
        passed += decide(drawn.estimate, family.interval(drawn.estimate), Limits(limit), family)[0] == "passed"
    assert passed / SPARSE <= 0.047


def test_holdout_facts_in_place_of_a_never_knew_model_are_resampled_apart_with_their_own_extra_group(facts) -> None:
    """Nothing known among 36 facts, nothing among 60 of holdout: at most 0.1 with the groups of both in mind."""
    share = recovered_share(
        facts([0.0] * 36), facts([1.0] * 36), facts([0.0] * 60, prefix="other"), Bootstrap(draws=20_000), paired=False
    )
    assert share.value == 0.0
    assert share.high == pytest.approx(beta.ppf(0.975, 1, 36), abs=0.004)
    assert -0.08 < share.low < 0.0


def test_a_share_that_is_the_same_in_every_fact_has_no_spread_when_paired(facts) -> None:
    target, never = noisy(0.8, 30, 1), noisy(0.1, 30, 2)
    subject = [n + 0.25 * (t - n) for t, n in zip(target, never, strict=True)]
    share = recovered_share(facts(subject), facts(target), facts(never), FEW)
    assert share.error == pytest.approx(0.0, abs=1e-12)
    # What is left is Gaffke's extra group: about one thirtieth of the rest above, and of the share below.
    assert share.low == pytest.approx(0.25 * (1 - 0.11), abs=0.03)
    assert share.high == pytest.approx(0.25 + 0.75 * 0.11, abs=0.05)
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
    """Limit 0.10, value 0.04, sides 0.08 (error 0.08 / 1.96), 100 groups. With 400 in all the sides are 0.04, so that
    it is settled from 0.06 down or 0.14 up; predicted with an error of 0.0408 * sqrt(0.75) = 0.0353:
    P(z < 0.57) + P(z > 2.83) = 0.72. With 1,600: 0.08, 0.12, 0.0395: P(z < 1.01) + P(z > 2.02) = 0.87, still open;
    2,500: 0.084, 0.116, 0.0400: 0.864 + 0.029 = 0.89."""
    share = Estimate(0.04, -0.04, 0.12, 100, 100)
    more = more_needed(share, (-0.04, 0.12), 0.10, 0.95)
    assert more is not None and 2300 < more < 3500
    # Twenty facts in each group: as many groups, twenty times the facts.
    each = more_needed(Estimate(0.04, -0.04, 0.12, 2000, 100), (-0.04, 0.12), 0.10, 0.95)
    assert each is not None and each == pytest.approx(20 * more, rel=0.05)
    assert [len(str(number).rstrip("0")) <= 2 for number in (more, each)] == [True, True]
    # Clearly above and only the joint interval is too long: sides 0.05 and 0.12 around 0.30.
    above = more_needed(Estimate(0.30, 0.25, 0.35, 100, 100), (0.18 - 0.10, 0.52), 0.10, 0.95)
    assert above is not None and above <= 60
    assert more_needed(Estimate(None, None, None, 100, 100, "no"), (0.0, 0.2), 0.10, 0.95) is None
    assert more_needed(Estimate(0.0999, 0.0, 0.3, 100_000, 100), (0.0, 0.3), 0.10, 0.95) is None


@pytest.mark.parametrize(("groups", "truth"), [(15, 0.0), (24, 0.0), (40, 0.03), (15, 0.35), (40, 0.25)])
def test_as_many_more_facts_as_are_named_settle_four_of_five_runs(facts, groups: int, truth: float) -> None:
    """Undecided runs go on with as many more facts of the same kind as they ask for."""
    generator = np.random.default_rng(round(1000 * truth) + groups)

    def more_facts(n: int) -> np.ndarray:
        known = generator.random(n) < truth
        target = generator.beta(6, 2, n)
        never, unlearned = generator.beta(1, 30, (2, n))
        return np.stack([np.where(known, target, unlearned), target, never])

    def verdict(scores: np.ndarray) -> tuple[str, int | None]:
        drawn = drawn_share(*(facts([*map(float, row)]) for row in scores), Bootstrap(draws=400))
        family = family_of([drawn], 0.95)
        return decide(drawn.estimate, family.interval(drawn.estimate), Limits(0.10), family)[:2]

    settled = undecided = 0
    for _ in range(40):
        first = more_facts(groups)
        status, more = verdict(first)
        if status != "inconclusive" or more is None or more > 5000:
            continue
        undecided += 1
        settled += verdict(np.hstack([first, more_facts(more)]))[0] != "inconclusive"
    assert undecided >= 5
    assert settled / undecided >= 0.8


def test_least_groups_by_hand() -> None:
    """0.9^36 = 0.0225 and 0.9^35 = 0.0250316: 36 groups are the first to go under 0.025."""
    assert least_groups(0.10, 0.95) == 36
    assert least_groups(0.20, 0.95) == 17
    assert least_groups(0.0, 0.95) is None
    assert least_groups(1.0, 0.95) == 1


def test_least_limit_is_the_smallest_that_so_many_groups_can_show() -> None:
    """0.83 ** 20 is 0.024 and 0.84 ** 20 is 0.031, so twenty groups show 0.17 and not 0.16."""
    assert least_limit(20, 0.95) == 0.17
    assert (least_groups(0.17, 0.95), least_groups(0.16, 0.95)) == (20, 22)
    assert least_limit(36, 0.95) == 0.10
    assert least_limit(MIN_GROUPS - 1, 0.95) is None
