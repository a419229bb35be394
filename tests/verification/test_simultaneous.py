"""Joint intervals against plain Python, and what they change in a verdict."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import numpy as np
import pytest

from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.intervals import Bootstrap, Drawn, Estimate, drawn_share
from hf_unlearn.verification.recovered import Limits, decide
from hf_unlearn.verification.scores import ScoreKey, ScoreTable
from hf_unlearn.verification.simultaneous import Family, family_of
from hf_unlearn.verification.verdict import judge

FEW = Bootstrap(draws=2000)
SINGLE = NormalDist().inv_cdf(0.975)


def member(draws: np.ndarray, value: float = 0.0, groups: int = 400) -> Drawn:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Drawn(Estimate(value, float(low), float(high), groups, groups), draws)


def normal_draws(count: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, count)


def test_the_deviation_is_the_quantile_of_the_largest_one_by_hand() -> None:
    """Three members, plain Python in float64: standardize, take the largest of each draw, sort."""
    draws = [normal_draws(2000, seed, scale) for seed, scale in ((1, 1.0), (2, 0.02), (3, 30.0))]
    values = [0.1, 0.004, -2.0]
    columns = []
    for column, value in zip(draws, values, strict=True):
        mean = math.fsum(column) / 2000
        spread = math.sqrt(math.fsum((one - mean) ** 2 for one in column) / 2000)
        columns.append([abs(one - value) / spread for one in column])
    largest = [max(found) for found in zip(*columns, strict=True)]
    largest.sort()
    place = 0.95 * 1999
    expected = largest[int(place)] + (place - int(place)) * (largest[int(place) + 1] - largest[int(place)])
    family = family_of([member(*pair) for pair in zip(draws, values, strict=True)], 0.95)
    assert family.comparisons == 3
    assert family.deviation == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_one_share_keeps_its_own_interval(count: int) -> None:
    alone = member(normal_draws(500, 1))
    family = family_of([alone][:count], 0.95)
    assert family.comparisons == count and family.deviation == pytest.approx(SINGLE)
    assert family.interval(alone.estimate) == pytest.approx(alone.estimate.interval)


def test_shares_that_move_together_cost_nothing_and_independent_ones_as_much_as_sidak_says() -> None:
    column = normal_draws(20_000, 1)
    together = family_of([member(column * scale) for scale in (1, 2, 5, 7, 11, 13)], 0.95)
    assert together.factor == pytest.approx(1.0, abs=0.02)
    apart = family_of([member(normal_draws(20_000, seed)) for seed in range(6)], 0.95)
    sidak = NormalDist().inv_cdf(0.5 + 0.5 * 0.95 ** (1 / 6))
    assert apart.deviation == pytest.approx(sidak, abs=0.05)
    bonferroni = NormalDist().inv_cdf(1 - 0.025 / 6)
    assert apart.deviation < bonferroni + 0.05


def test_sides_are_lengthened_alike_and_few_groups_more() -> None:
    family = Family(6, 2.64, 0.95)
    low, high = family.interval(Estimate(0.5, 0.4, 0.8, 400, 400)) or (0, 0)
    assert (0.5 - low) / 0.1 == pytest.approx((high - 0.5) / 0.3)
    assert (0.5 - low) / 0.1 == pytest.approx(2.64 / SINGLE, abs=0.01)
    few = family.interval(Estimate(0.5, 0.4, 0.8, 10, 10)) or (0, 0)
    # t with 9 degrees of freedom: 2.262 at 0.975, 3.38 at 0.99585, the normal probability of 2.64.
    assert (0.5 - few[0]) / 0.1 == pytest.approx(3.38 / 2.262, abs=0.03)
    assert family.interval(Estimate(None, None, None, 9, 9, "no")) is None


def test_what_never_varies_or_is_undefined_takes_no_harm() -> None:
    still = Drawn(Estimate(0.0, 0.0, 0.0, 60, 60), np.zeros(500))
    undefined = Drawn(Estimate(None, None, None, 60, 60, "no"))
    broken = normal_draws(500, 4)
    broken[7] = np.inf
    family = family_of([still, undefined, member(normal_draws(500, 3)), member(broken)], 0.95)
    assert family.comparisons == 3 and math.isfinite(family.deviation)
    assert family.interval(still.estimate) == (0.0, 0.0)


def test_draws_of_different_transforms_belong_together(facts) -> None:
    """The same noise under two transforms gives the same share in every draw, so that both count as one."""
    generator = random.Random(5)
    subject, never = ([generator.random() for _ in range(60)] for _ in range(2))
    one, two = (drawn_share(facts(subject), facts([1.5] * 60), facts(never), FEW) for _ in range(2))
    assert np.array_equal(one.draws, two.draws)
    assert family_of([one, two], 0.95).factor == pytest.approx(1.0, abs=0.05)


def estimate(value: float, half: float, facts: int = 100) -> Estimate:
    return Estimate(value, value - half, value + half, facts, facts)


def test_a_failure_needs_the_joint_interval_and_a_pass_its_own() -> None:
    family = Family(18, 2 * SINGLE, 0.95)  # twice as long

    def status(share: Estimate) -> str:
        return decide(share, family.interval(share), Limits(0.10, -0.15), family)[0]

    assert status(estimate(0.30, 0.05)) == "failed"  # 0.20 at the joint lower end
    assert status(estimate(0.18, 0.05)) == "inconclusive"  # 0.13 by itself, 0.08 jointly
    assert status(estimate(0.04, 0.05)) == "passed"  # 0.09 by itself, 0.14 jointly: a pass needs no correction
    assert status(estimate(-0.30, 0.05)) == "failed"
    assert status(estimate(-0.22, 0.05)) == "inconclusive"


def test_a_share_that_only_fails_by_itself_says_what_would_settle_it() -> None:
    family = Family(18, 2 * SINGLE, 0.95)
    share = estimate(0.18, 0.06, facts=100)
    status, needed, reason = decide(share, (0.06, 0.30), Limits(0.10), family)
    # The joint lower side of 0.12 has to become less than 0.08, with room for the next facts to differ.
    assert status == "inconclusive"
    assert needed is not None and 125 < needed < 700
    assert "outside by itself, but not with all 18 shares taken together (0.06 to 0.30)" in reason
    assert f"about {needed} more facts would settle it" in reason


def noise_table(transforms: list[str], seed: int) -> ScoreTable:
    """Models that answer by chance under every transform, anew each time, beside a target that knows."""
    table = ScoreTable()
    generator = np.random.default_rng(seed)
    names = [f"f{number}" for number in range(120)]
    from hf_unlearn.verification.scores import FactScores

    for model, chance in (("target", 0.95), ("never_knew", 0.25), ("other", 0.25)):
        for transform in ("identity", *transforms):
            for split in ("forget", "retain"):
                level = 0.95 if split == "retain" else chance
                values = generator.binomial(4, level, 120) / 4
                scores = FactScores(dict(zip(names, map(float, values), strict=True)), {name: name for name in names})
                table.add(ScoreKey(model, transform, split, "mc_accuracy"), scores)
    return table


def test_many_transforms_do_not_fail_a_model_by_chance() -> None:
    """Fifteen runs of a model that never knew under 31 transforms, against a limit of zero, on which it lies exactly:
    single intervals would fail most of them, joint ones hardly any."""
    transforms = [f"t{number}" for number in range(30)]
    gate = Gate(
        metrics=("mc_accuracy",), formats=tuple(transforms), attacks=(), draws=400, max_recovered_share_formats=0.0
    )
    failed = alone = 0
    for seed in range(15):
        judgement = judge(noise_table(transforms, seed), "other", gate)
        rows = [row for row in judgement.recovered if row.status != "reported"]
        assert judgement.family.comparisons == len(rows) == 31
        assert all(row.joint95 and row.joint95[0] <= row.ci95[0] for row in rows)
        failed += any(row.still_known for row in rows)
        alone += any(row.ci95[0] > 0 for row in rows)
    assert alone >= 6
    assert failed <= 2


def test_the_notes_say_how_much_was_judged(plain, gate) -> None:
    judgement = judge(plain.table, "good", gate)
    assert judgement.family.comparisons == 6
    assert f"all 6 shares at once, {judgement.family.factor:.2f} times as long" in judgement.notes[0]
