"""Counts of facts that are still known: what a mean hides, and what a model that never knew shows by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import betabinom

from hf_unlearn.verification.digests import salted_id
from hf_unlearn.verification.intervals import Bootstrap
from hf_unlearn.verification.references import Reference
from hf_unlearn.verification.scores import ScoreKey, ScoreTable
from hf_unlearn.verification.single_facts import COMBINED, ask, combine, count_facts, judge_counts
from hf_unlearn.verification.verdict import judge

PAIRED = Reference("never_knew", "forget", paired=True)
HOLDOUT = Reference("target", "holdout", paired=False)
SETTINGS = Bootstrap(2_000)


def table_of(
    facts, subject: Sequence[float], target: Sequence[float], never: Sequence[float], paired: bool = True
) -> ScoreTable:
    table = ScoreTable()
    add = {"good": subject, "target": target, **({"never_knew": never} if paired else {})}
    for name, values in add.items():
        table.add(ScoreKey(name, "identity", "forget", "probability"), facts([*map(float, values)], prefix="forget"))
        table.add(ScoreKey(name, "identity", "retain", "probability"), facts([0.9] * 40, prefix="retain"))
    if not paired:
        key = ScoreKey("target", "identity", "holdout", "probability")
        table.add(key, facts([*map(float, never)], prefix="holdout"))
    return table


def counted(facts, subject, target, never, reference=PAIRED):
    table = table_of(facts, subject, target, never, reference.paired)
    asked = ask(table, "good", "target", reference, "forget", "identity", "probability")
    assert asked is not None
    return count_facts(asked, "identity", "probability")


def test_a_fact_is_known_if_half_of_what_the_target_knew_is_there(facts) -> None:
    """(s - n) / (t - n): 0.5, 0.4875, 1, no gap to speak of, 0."""
    count = counted(facts, [0.5, 0.49, 0.9, 0.12, 0.1], [0.9, 0.9, 0.9, 0.12, 0.9], [0.1, 0.1, 0.1, 0.1, 0.1])
    assert count.facts == ("forget0", "forget2")
    assert (count.n, count.chance) == (5, 0.0)


def test_what_a_never_knew_model_guesses_is_counted_with_the_models_in_each_others_place(facts) -> None:
    count = counted(facts, [0.1, 0.1, 0.6, 0.1], [0.9] * 4, [0.1, 0.7, 0.1, 0.1])
    assert (len(count.facts), count.chance, count.chance_n) == (1, 1.0, 4)


def test_holdout_facts_stand_in_the_place_of_forgotten_ones(facts) -> None:
    count = counted(facts, [0.6, 0.1, 0.1, 0.1], [0.9, 0.9, 0.9, 0.9], [0.6, *[0.1] * 19], HOLDOUT)
    # The mean is 0.125, the gap 0.775, and half of it 0.3875: the one at 0.6 is above, in the place of all four.
    assert (len(count.facts), count.chance, count.chance_n) == (1, pytest.approx(1.0), 20)


def test_allowed_is_the_beta_binomial_quantile(facts) -> None:
    count = counted(facts, [0.1] * 74, [0.9] * 74, [0.1] * 74)
    assert count.most_by_chance(0.975) == betabinom.ppf(0.975, 74, 0.5, 74.5) == 3
    (row,) = judge_counts("good", [count], None, SETTINGS)
    assert (row.status, row.known, row.allowed, row.by_chance) == ("passed", 0, 3, 0.0)


def test_a_mean_at_chance_does_not_hide_one_fact_in_six(facts) -> None:
    """Twelve of 72 are known as before and the others are pushed below chance: the mean is that of a model that never
    knew, and the count is not."""
    generator = np.random.default_rng(0)
    target = generator.uniform(0.4, 0.9, 72)
    never = generator.uniform(0.08, 0.16, 72)
    subject = np.where(np.arange(72) < 12, target, 0.001)
    assert abs(subject.mean() - never.mean()) < 0.02
    (row,) = judge_counts("good", [counted(facts, subject, target, never)], None, SETTINGS)
    assert (row.status, row.known) == ("failed", 12)
    assert row.anti_known == 60
    assert row.same_distribution == row.anti_known_p == pytest.approx(1 / 1001)
    assert row.known_p < 0.002
    assert "12 of 72 facts are still known" in row.reason


def test_the_verdict_fails_by_single_facts_alone(facts, gate) -> None:
    generator = np.random.default_rng(0)
    target, never = generator.uniform(0.4, 0.9, 144), generator.uniform(0.08, 0.16, 144)
    subject = np.where(np.arange(144) < 24, target, 0.001)
    table = table_of(facts, subject, target, never)
    judgement = judge(table, "good", replace(gate, metrics=("probability",), formats=(), attacks=()))
    assert not any(row.still_known for row in judgement.recovered)
    assert judgement.status == "failed"
    assert judgement.caught_by == ("identity",)
    assert judgement.outcomes[0].causes == ("knowledge",)
    assert any("24 of 144 facts are still known" in reason for reason in judgement.reasons)


def test_a_named_limit_takes_the_place_of_chance(facts) -> None:
    count = counted(facts, [*[0.8] * 4, *[0.1] * 70], [0.9] * 74, [0.1] * 74)
    (row,) = judge_counts("good", [count], 0, SETTINGS)
    assert (row.status, row.allowed) == ("failed", 0)
    (row,) = judge_counts("good", [count], 4, SETTINGS)
    assert row.status == "passed"


def test_one_question_with_four_options_is_reported_and_not_judged(facts) -> None:
    generator = np.random.default_rng(1)
    subject, never = (generator.random((2, 200)) < 0.25).astype(float)
    count = counted(facts, subject, [1.0] * 200, never)
    assert count.rate > 0.1
    (row,) = judge_counts("good", [count], None, SETTINGS)
    assert (row.status, row.allowed) == ("reported", None)


@pytest.mark.parametrize("paired", [True, False])
def test_never_knew_models_do_not_fail(facts, paired: bool) -> None:
    """150 models that never knew, with a heavy tail of lucky guesses, seven formats that show the same: at most 2.5 %
    fail (6 % with the simulation's error at 99.7 %), and no more are undecided."""
    generator = np.random.default_rng(3)
    statuses = []
    for _ in range(150):
        target = generator.beta(4, 2, 74)
        never = generator.beta(0.3, 8, 74 if paired else 60)
        subject = generator.beta(0.3, 8, 74)
        count = counted(facts, subject, target, never, PAIRED if paired else HOLDOUT)
        statuses.append(judge_counts("good", [count] * 7, None, Bootstrap(400))[0].status)
    assert statuses.count("failed") / 150 <= 0.06
    assert statuses.count("inconclusive") / 150 <= 0.06


def test_formats_that_show_the_same_facts_are_one_test(facts) -> None:
    """Six facts, none of them guessed: one exchange in 64 gives as much, whether one format shows them or twenty."""
    count = counted(facts, [0.9] * 6 + [0.1] * 68, [0.9] * 74, [0.1] * 74)
    for copies in (1, 20):
        row = judge_counts("good", [count] * copies, None, Bootstrap(10_000))[0]
        assert row.status == "failed"
        assert row.known_p == pytest.approx(1 / 64, abs=0.004)  # three standard errors of 10,000 draws
    row = judge_counts("good", [counted(facts, [0.9] * 5 + [0.1] * 69, [0.9] * 74, [0.1] * 74)], None, SETTINGS)[0]
    assert (row.status, row.allowed) == ("inconclusive", 3)
    assert "at most 3 are allowed" in row.reason


def test_groups_change_places_as_wholes(facts) -> None:
    """Twenty known facts of one group are one observation, and so no proof."""
    table = ScoreTable()
    for name, values in (("good", [0.9] * 20 + [0.1] * 60), ("target", [0.9] * 80), ("never_knew", [0.1] * 80)):
        table.add(ScoreKey(name, "identity", "forget", "probability"), facts(values, group_size=20))
    asked = ask(table, "good", "target", PAIRED, "forget", "identity", "probability")
    (row,) = judge_counts("good", [count_facts(asked, "identity", "probability")], None, SETTINGS)
    assert row.known == 20
    assert row.known_p == pytest.approx(0.5, abs=0.04)
    assert row.status == "inconclusive"


def test_a_guess_in_one_wording_is_not_known_in_four(facts) -> None:
    """Mean over four questions: a fact guessed by one of them has a quarter, a known one has all."""
    columns = []
    for wording in range(4):
        lucky = [0.9 if number % 4 == wording and number < 12 else 0.1 for number in range(12)]
        subject = [0.9] * 6 + lucky
        asked = ask(
            table_of(facts, subject, [0.9] * 18, [0.1] * 18),
            "good",
            "target",
            PAIRED,
            "forget",
            "identity",
            "probability",
        )
        assert len(count_facts(asked, "identity", "probability").facts) == 9
        columns.append(asked)
    together = count_facts(combine(columns), "identity", COMBINED)
    assert together.facts == tuple(f"forget{number}" for number in range(6))
    assert combine(columns[:1]) is None


def test_known_facts_are_no_sign_of_pushing_in_the_never_knew_model(facts) -> None:
    """Twelve known facts lie far above the never-knew model's, and are not counted as anti-known there."""
    subject = [0.9] * 12 + [0.001] * 20 + [0.05] * 40
    count = counted(facts, subject, [0.9] * 72, [0.05] * 72)
    assert (count.anti_known, count.anti_known_chance) == (20, 0.0)
    (row,) = judge_counts("good", [count], None, SETTINGS)
    assert row.anti_known_p == pytest.approx(1 / 1001)


def test_anti_known_facts_beside_holdout_facts_have_a_beta_binomial_p_value(facts) -> None:
    """With 40 holdout facts the one that one in twenty lies below is the second from below."""
    holdout = [0.05 + 0.001 * number for number in range(40)]
    count = counted(facts, [0.001] * 30 + [0.06] * 44, [0.9] * 74, holdout, HOLDOUT)
    assert (count.anti_known, count.anti_known_chance) == (30, 0.0)
    (row,) = judge_counts("good", [count], None, SETTINGS)
    assert row.anti_known_p == pytest.approx(betabinom.sf(29, 74, 2, 39))


def test_facts_that_cannot_be_paired_are_not_counted(facts) -> None:
    table = table_of(facts, [0.1] * 5, [0.9] * 4, [0.1] * 5)
    assert ask(table, "good", "target", PAIRED, "forget", "identity", "probability") is None


def test_salted_ids_say_nothing_without_the_salt() -> None:
    assert salted_id("forget0", b"one") != salted_id("forget0", b"two")
    assert len(salted_id("forget0", b"one")) == 12


def test_other_wordings_are_combined_with_the_model_as_it_stands(facts, gate) -> None:
    """Five facts are guessed by the questions as they are, by one metric, and by nothing else. In a format no other
    wording was asked."""
    table = ScoreTable(attacks={"few-shot": ""}, wordings={"few-shot", "not-in-the-gate"})
    lucky = [0.9] * 5 + [0.1] * 67
    for transform, subject in (("identity", lucky), ("bnb-nf4", lucky), ("few-shot", [0.1] * 72)):
        for name, values in (("good", subject), ("target", [0.9] * 72), ("never_knew", [0.1] * 72)):
            for metric in ("probability", "mc_accuracy"):
                if transform == "few-shot" or metric == "probability":
                    table.add(ScoreKey(name, transform, "forget", metric), facts(values, prefix="forget"))
                    table.add(ScoreKey(name, transform, "retain", metric), facts([0.9] * 40, prefix="retain"))
    judgement = judge(table, "good", replace(gate, metrics=("probability",), attacks=("few-shot",)))
    counts = {(row.transform, row.metric): row.known for row in judgement.known_facts}
    assert counts == {
        ("identity", "probability"): 5,
        ("identity", COMBINED): 5,  # half of what was known: by one of two wordings wholly
        ("bnb-nf4", "probability"): 5,
        ("few-shot", "probability"): 0,
    }
    weaker = replace(gate, metrics=("probability", "mc_accuracy"), formats=(), attacks=("few-shot",))
    for name, values in (("good", [0.1] * 72), ("target", [0.9] * 72), ("never_knew", [0.1] * 72)):
        table.add(ScoreKey(name, "identity", "forget", "mc_accuracy"), facts(values, prefix="forget"))
    counts = {(row.transform, row.metric): row.known for row in judge(table, "good", weaker).known_facts}
    assert counts["identity", "probability"] == 5
    assert counts["identity", COMBINED] == 0  # one of four
