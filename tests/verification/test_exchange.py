"""Exchanges: exact null distributions, held against plain counting and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import anderson_ksamp, binom, hypergeom

from hf_unlearn.verification.exchange import by_chance, same_distribution, sums_by_group

DRAWS = 20_000


def names(count: int) -> list[str]:
    return [f"g{number:03d}" for number in range(count)]


def test_models_that_change_places_give_the_sign_test() -> None:
    """Nine facts on one side and three on the other: P(Bin(12, 1/2) >= 9)."""
    judged, other = [1.0] * 9 + [0.0] * 11, [0.0] * 9 + [1.0] * 3 + [0.0] * 8
    found = by_chance([sums_by_group(judged, names(20), other)], DRAWS)
    assert found.own[0] == found.joint[0] == pytest.approx(binom.sf(8, 12, 0.5), abs=0.006)


def test_facts_that_change_places_give_fishers_test() -> None:
    """Seven of 20 on one side and one of 30 on the other: hypergeometric."""
    judged, other = [1.0] * 7 + [0.0] * 13, [1.0] + [0.0] * 29
    found = by_chance([sums_by_group(judged, names(20), other, names(30))], DRAWS)
    assert found.own[0] == pytest.approx(hypergeom.sf(6, 50, 8, 20), abs=0.003)


def test_the_joint_p_value_is_that_of_the_largest() -> None:
    """Two independent sets of four facts, three of them on the judged side in the first: every exchange by hand."""
    first, second = [1.0, 1.0, 1.0, 0.0] + [0.0] * 4, [0.0] * 4 + [1.0, 1.0, 0.0, 0.0]
    back, forth = [0.0, 0.0, 0.0, 1.0] + [0.0] * 4, [0.0] * 4 + [0.0, 0.0, 1.0, 1.0]
    groups = names(8)
    numbers = [sums_by_group(first, groups, back), sums_by_group(second, groups, forth)]
    found = by_chance(numbers, DRAWS)
    sums = [(sum(signs[:4]), sum(signs[4:])) for signs in itertools.product((-1, 1), repeat=8)]
    assert found.own[0] == pytest.approx(np.mean([one >= 2 for one, _ in sums]), abs=0.012)
    assert found.joint[0] == pytest.approx(np.mean([max(both) >= 2 for both in sums]), abs=0.012)
    assert found.joint[1] == pytest.approx(np.mean([max(both) >= 0 for both in sums]), abs=0.012)


def test_what_is_more_important_costs_the_others() -> None:
    groups = names(8)
    first = sums_by_group([1.0] * 4 + [0.0] * 4, groups, [0.0] * 8)
    second = sums_by_group([0.0] * 4 + [1.0] * 4, groups, [0.0] * 8)
    alike = by_chance([first, second], DRAWS)
    found = by_chance([first, second], DRAWS, importance=[2.0, 1.0])
    # All four of the first: one exchange in 16. The second may be outdone by three of four of the first, too.
    assert found.joint[0] == pytest.approx(1 / 16, abs=0.006)
    assert alike.joint[0] == pytest.approx(1 - (15 / 16) ** 2, abs=0.008)
    assert found.joint[1] == pytest.approx(1 - (15 / 16) * (1 - 5 / 16), abs=0.012)


def test_nothing_in_excess_is_no_evidence() -> None:
    found = by_chance([sums_by_group([0.0] * 5, names(5), [0.0] * 5)], 100)
    assert found.own[0] == found.joint[0] == 1.0
    assert not len(by_chance([], 100).joint)


def test_the_two_sample_statistic_has_the_p_value_of_scipys() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.normal(0.35, 1, 60), generator.normal(0, 1, 50)
    found = same_distribution(first, names(60), second, names(50), DRAWS)
    assert 0.01 < found < 0.2  # where the approximation of scipy is good
    assert found == pytest.approx(anderson_ksamp([first, second]).pvalue, rel=0.15)


@pytest.mark.parametrize("paired", [True, False])
def test_a_mixture_with_the_same_mean_is_seen(paired: bool) -> None:
    generator = np.random.default_rng(6)
    other = generator.uniform(0.1, 0.2, 72)
    mixed = np.where(np.arange(72) < 12, 0.8, 0.02)
    assert abs(mixed.mean() - other.mean()) < 0.02
    groups = names(72)
    assert same_distribution(mixed, groups, other, None if paired else groups, 1000) == pytest.approx(1 / 1001)
    assert same_distribution(other.copy(), groups, other, None if paired else groups, 1000) > 0.9


def test_pairs_that_move_together_are_not_taken_for_independent() -> None:
    """Two models that find the same facts easy: over 400 pairs the p value is uniform, and not bunched near one."""
    generator = np.random.default_rng(7)
    groups, found = names(40), []
    for _ in range(400):
        ease = generator.normal(0, 1, 40)
        first, second = (ease + generator.normal(0, 0.3, 40) for _ in range(2))
        found.append(same_distribution(first, groups, second, None, 200))
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.045)
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.075)


def test_equal_scores_are_one_place() -> None:
    assert same_distribution(np.zeros(10), names(10), np.zeros(10), None, 100) == 1.0
