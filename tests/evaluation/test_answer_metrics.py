"""True answers against wrong ones, options, membership scores: agreement with loops by hand, and the limits."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import by_hand
import pytest

from hf_unlearn.evaluation.metrics import METRICS
from hf_unlearn.evaluation.metrics.answers import wrong_minus_right
from hf_unlearn.evaluation.records import AnswerScore, ScoredRow


def value(name: str, row: ScoredRow) -> float | None:
    return METRICS.get(name).value(row)


def row_of(**fields) -> ScoredRow:
    return ScoredRow("id", "fact", "group", "forget", **fields)


def answers(right, wrong, tokens: int = 1) -> dict:
    return {
        "paraphrased": tuple(AnswerScore(tokens * logp, tokens) for logp in right),
        "perturbed": tuple(AnswerScore(tokens * logp, tokens) for logp in wrong),
    }


@pytest.fixture(scope="module")
def rows():
    return by_hand.random_rows("forget", 60, seed=1)


def means(row, kind):
    return [score.logp / score.tokens for score in row.variants[kind]]


def test_truth_ratios_are_those_by_hand(rows):
    for row in rows:
        right, wrong = means(row, "paraphrased"), means(row, "perturbed")
        product = 1.0
        for logp in wrong:
            product *= math.exp(logp)
        geometric = product ** (1 / len(wrong))
        ratio = geometric / math.exp(right[0])
        assert value("truth_ratio", row) == pytest.approx(ratio, rel=1e-12)
        assert math.exp(wrong_minus_right(row)) == pytest.approx(ratio, rel=1e-12)
        assert value("truth_ratio_closeness", row) == pytest.approx(min(ratio, 1 / ratio), rel=1e-12)
        assert value("truth_ratio_preference", row) == pytest.approx(max(0.0, 1 - ratio), abs=1e-12)
        share = math.exp(right[0]) / (math.exp(right[0]) + geometric)
        assert value("truth_share", row) == pytest.approx(share, rel=1e-12)
        arithmetic = by_hand.mean([math.exp(logp) for logp in wrong]) / math.exp(right[0])
        assert value("truth_ratio_arithmetic", row) == pytest.approx(arithmetic, rel=1e-12)
        assert arithmetic >= ratio * (1 - 1e-12)


def test_normalized_probability_is_that_by_hand_and_that_of_options(rows):
    for row in rows:
        own = math.exp(by_hand.mean(row.logps))
        wrong = [math.exp(logp) for logp in means(row, "perturbed")]
        expected = own / (own + sum(wrong))
        assert value("probability_normalized", row) == pytest.approx(expected, rel=1e-12)
        scores = row.variants["perturbed"]
        as_options = replace(
            row,
            choice_logps=(sum(row.logps), *(score.logp for score in scores)),
            choice_lengths=(len(row.logps), *(score.tokens for score in scores)),
            right_choice=0,
        )
        assert value("mc_probability", as_options) == pytest.approx(expected, rel=1e-12)


def test_a_log_that_holds_the_probability_alone_is_enough():
    wrong = answers([], [math.log(0.1), math.log(0.3)])
    row = row_of(values={"probability": 0.4}, variants=wrong)
    assert value("probability_normalized", row) == pytest.approx(0.5)
    assert value("probability_normalized", replace(row, values={})) is None


def test_probability_of_paraphrases_is_their_mean():
    row = row_of(variants=answers([math.log(0.2), math.log(0.6)], [], tokens=3))
    assert value("probability_paraphrased", row) == pytest.approx(0.4)


def test_truth_ratio_at_its_limits():
    same = row_of(variants=answers([-2.0], [-2.0, -2.0]))
    assert value("truth_ratio", same) == value("truth_ratio_arithmetic", same) == 1.0
    assert value("truth_ratio_closeness", same) == 1.0
    assert value("truth_ratio_preference", same) == 0.0
    assert value("truth_share", same) == 0.5
    knows = row_of(variants=answers([0.0], [-5000.0]))
    assert value("truth_ratio", knows) == 0.0
    assert value("truth_ratio_preference", knows) == 1.0
    assert value("truth_share", knows) == 1.0
    wrong = row_of(variants=answers([-5000.0], [0.0]))
    for name in ("truth_ratio", "truth_ratio_arithmetic"):
        assert math.isfinite(value(name, wrong)) and value(name, wrong) > 1e300
    assert value("truth_ratio_closeness", wrong) == value("truth_ratio_preference", wrong) == 0.0
    assert value("truth_share", wrong) < 1e-300


def test_truth_ratio_keeps_its_meaning_where_no_answer_is_likely():
    # 1e-10 in the denominator would make 9e-9 of the true ratio, 2.7.
    row = row_of(variants=answers([-41.0], [-40.0]))
    assert value("truth_ratio", row) == pytest.approx(math.e)


def test_one_kind_of_answer_alone_has_no_truth_ratio():
    for missing in ("paraphrased", "perturbed"):
        variants = {**answers([-1.0], [-2.0]), missing: ()}
        for name in ("truth_ratio", "truth_ratio_arithmetic", "truth_share", "truth_ratio_closeness"):
            assert value(name, row_of(variants=variants)) is None


@pytest.mark.parametrize("hits, expected", [("1111", 1.0), ("1010", 0.5), ("0", 0.0), ("1", 1.0), ("110", 2 / 3)])
def test_exact_memorization(hits, expected):
    assert value("exact_memorization", row_of(hits=tuple(hit == "1" for hit in hits))) == expected


def options(logps, right, priors=(), lengths=None) -> ScoredRow:
    return row_of(
        choice_logps=tuple(logps),
        choice_lengths=tuple(lengths or [1] * len(logps)),
        right_choice=right,
        prior_logps=tuple(priors),
    )


def test_letters_are_compared_by_their_sum():
    assert value("mc_accuracy_letter", options([-3.0, -4.0], 0, lengths=[1, 4])) == 1.0
    assert value("mc_accuracy", options([-3.0, -4.0], 0, lengths=[1, 4])) == 0.0
    ten = [-3.0] * 9 + [-2.9]
    assert value("mc_accuracy_letter", options(ten, 9)) == 1.0
    assert value("mc_accuracy_letter", options([-2.9] * 10, 0)) == 0.0  # a tie, also for the first


def test_calibration_takes_off_what_an_option_has_without_the_question():
    assert value("mc_accuracy_letter", options([-1.0, -2.0], 1)) == 0.0
    assert value("mc_accuracy_calibrated", options([-1.0, -2.0], 1, priors=[-0.5, -3.0])) == 1.0
    assert value("mc_accuracy_calibrated", options([-1.0, -2.0], 1, priors=[-1.0, -2.0])) == 0.0  # a tie
    assert value("mc_accuracy_calibrated", options([-1.0, -2.0], 1)) is None
    assert math.isnan(value("mc_accuracy_letter", options([-1.0, math.nan], 0)))


def test_membership_scores_are_those_by_hand(rows):
    for row in rows:
        assert value("loss", row) == pytest.approx(-by_hand.mean(row.logps), rel=1e-12)
        size = len(zlib.compress(row.answer.encode()))
        assert value("zlib_ratio", row) == pytest.approx(-by_hand.mean(row.logps) / size, rel=1e-12)
        assert value("min_k", row) == pytest.approx(by_hand.min_k(row.logps, 0.4), rel=1e-12)
        standardized = []
        for logp, mean, variance in zip(row.logps, row.vocab_means, row.vocab_variances, strict=True):
            standardized.append((logp - mean) / math.sqrt(variance if variance > 1e-6 else 1e-6))
        assert value("min_k_plus_plus", row) == pytest.approx(by_hand.min_k(standardized, 0.4), rel=1e-12)
        assert value("grad_norm", row) == row.grad_norm


def test_min_k_takes_at_least_one_token():
    assert value("min_k", row_of(logps=(-1.0, -7.0))) == 7.0  # int(0.4 * 2) is 0
    assert value("min_k", row_of(logps=(-1.5,))) == 1.5
    certain = row_of(logps=(-0.001,), vocab_means=(0.0,), vocab_variances=(0.0,))
    assert value("min_k_plus_plus", certain) == pytest.approx(1.0)  # a variance of 0 counts as 1e-6


def test_zlib_ratio_of_text_that_is_not_latin():
    row = row_of(logps=(-2.0,), answer=" القاهرة")
    assert value("zlib_ratio", row) == 2.0 / len(zlib.compress(" القاهرة".encode()))
