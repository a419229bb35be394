"""The verdict on planted truths."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.verification.controls import all_as_expected, control_outcome
from hf_unlearn.verification.scores import ScoreKey
from hf_unlearn.verification.verdict import judge


def row_of(judgement, transform: str, metric: str = "probability"):
    return next(row for row in judgement.recovered if (row.transform, row.metric) == (transform, metric))


def test_a_model_that_forgot_passes(plain, gate) -> None:
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "passed"
    assert judgement.caught_by == ()
    assert judgement.not_tested == ("KL on generic text",)
    assert "all 3 conditions" in judgement.reasons[0]
    assert judgement.notes[0].startswith("3 of 3 conditions of the gate were tested, each by 2 metrics")
    assert [row.status for row in judgement.recovered] == ["passed"] * 6
    assert {row.threshold for row in judgement.recovered if row.transform == "rtt"} == {0.20}


@pytest.mark.parametrize("subject", ["target", "never_knew"])
def test_the_two_ends_of_the_scale(plain, gate, subject: str) -> None:
    judgement = judge(plain.table, subject, gate)
    expected = {"target": 1.0, "never_knew": 0.0}[subject]
    assert all(row.recovered_share == pytest.approx(expected) for row in judgement.recovered)
    assert judgement.status == ("failed" if subject == "target" else "passed")


def test_hidden_knowledge_is_caught_where_it_comes_back(plain, gate) -> None:
    plain.model("hidden", 0.05, bnb_nf4=0.95)
    judgement = judge(plain.table, "hidden", gate)
    assert judgement.status == "failed"
    assert judgement.caught_by == ("bnb-nf4",)
    assert judgement.reasons[0].startswith("bnb-nf4: forgotten knowledge is still there by")
    assert "Also by" in judgement.reasons[0]
    assert row_of(judgement, "identity").status == "passed"
    assert row_of(judgement, "bnb-nf4").retention_ratio == pytest.approx(1.0, abs=0.02)


def test_formats_and_attacks_have_their_own_thresholds(plain, gate) -> None:
    """A share of 0.15 is too much in a format and allowed under an attack."""
    plain.model("some", 0.185)
    judgement = judge(plain.table, "some", gate)
    assert row_of(judgement, "identity").status == row_of(judgement, "bnb-nf4").status == "failed"
    assert row_of(judgement, "rtt").status == "passed"
    assert judgement.caught_by == ("identity", "bnb-nf4")


def test_over_forgetting_fails_at_formats_and_is_allowed_under_attack(scenario, gate) -> None:
    made = scenario(("identity", "bnb-nf4", "rtt")).model("target", 0.95).model("never_knew", 0.25)
    judgement = judge(made.model("burnt", 0.05).table, "burnt", gate)
    assert judgement.status == "failed"
    assert judgement.caught_by == ()
    assert row_of(judgement, "identity").over_forgotten and row_of(judgement, "bnb-nf4").over_forgotten
    assert row_of(judgement, "rtt").status == "passed"
    assert judgement.reasons[0].startswith("As it stands: forgotten knowledge is over-forgotten")


def test_undecided_says_how_many_more_facts(facts, scenario, gate) -> None:
    made = scenario(("identity",), n=80, metrics=("probability",)).model("target", 1.0).model("never_knew", 0.0)
    made.add("some", "identity", "retain", 0.95)
    made.table.add(
        ScoreKey("some", "identity", "forget", "probability"), facts([1.0] * 3 + [0.0] * 77, prefix="forget")
    )
    judgement = judge(made.table, "some", replace(gate, metrics=("probability",), formats=(), attacks=()))
    row = row_of(judgement, "identity")
    assert judgement.status == row.status == "inconclusive"
    assert row.more_needed and f"about {row.more_needed} more facts would settle it" in judgement.reasons[0]


def test_too_few_facts_cannot_pass(scenario, gate) -> None:
    made = scenario(("identity", "bnb-nf4", "rtt"), n=20)
    made.model("target", 0.95).model("never_knew", 0.05).model("good", 0.05)
    judgement = judge(made.table, "good", gate)
    assert judgement.status == "inconclusive"
    more = row_of(judgement, "identity").more_needed
    assert more is not None and more >= 16
    assert "20 facts cannot show" in judgement.reasons[0]


def test_facts_of_few_groups_cannot_pass(facts, scenario, gate) -> None:
    """Four hundred facts of twenty authors are twenty: 0.10 needs 36 groups, 0.20 only 17."""
    made = scenario(("identity", "rtt"), n=400, metrics=("probability",))
    for name, level in (("target", 0.95), ("never_knew", 0.05), ("good", 0.05)):
        made.add(name, "identity", "retain", 0.95)
        for transform in ("identity", "rtt"):
            key = ScoreKey(name, transform, "forget", "probability")
            made.table.add(key, facts([level] * 400, 20, prefix="forget"))
    judgement = judge(made.table, "good", replace(gate, metrics=("probability",), formats=()))
    assert row_of(judgement, "identity").status == "inconclusive"
    assert "20 groups of facts cannot show at most 0.10" in judgement.reasons[0]
    assert (row_of(judgement, "identity").more_needed or 0) >= 16 * 20
    assert row_of(judgement, "rtt").status == "passed"


@pytest.mark.parametrize(("limit", "least"), [(0.10, 36), (0.30, 11), (0.45, 10), (1.0, 10)])
def test_the_least_groups_that_are_told_have_an_interval(plain, gate, limit: float, least: int) -> None:
    """0.55 ** 7 is 0.015, so seven groups could show 0.45, but an interval needs ten."""
    judgement = judge(plain.table, "good", replace(gate, max_recovered_share_formats=limit))
    note = f"At least {least} groups of facts are needed to show a recovered share of at most {limit:.2f}."
    assert note in judgement.notes


def test_a_transform_of_the_gate_that_was_not_scored_is_not_passed(plain, gate) -> None:
    plain.drop("good", "bnb-nf4")
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "inconclusive"
    assert judgement.not_tested[0] == "bnb-nf4"
    assert "bnb-nf4 is in the gate and was not tested." in judgement.reasons
    assert judgement.notes[0].startswith("2 of 3 conditions")


@pytest.mark.parametrize("model", ["good", "target", "never_knew"])
def test_a_metric_that_is_missing_for_one_model_is_not_passed(plain, gate, model: str) -> None:
    plain.drop(model, "bnb-nf4", "forget", "mc_accuracy")
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "inconclusive"
    assert "mc_accuracy was not measured" in row_of(judgement, "bnb-nf4", "mc_accuracy").reason


def test_broken_numbers_do_not_pass(plain, gate) -> None:
    key = ScoreKey("good", "bnb-nf4", "forget", "probability")
    scores = plain.table.scores[key]
    plain.table.scores[key] = replace(scores, values={**scores.values, "forget0": math.nan})
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "inconclusive"
    assert "not a finite number" in row_of(judgement, "bnb-nf4").reason


def test_different_facts_are_not_compared(plain, gate, facts) -> None:
    plain.table.scores[ScoreKey("good", "rtt", "forget", "probability")] = facts([0.05] * 50, prefix="forget")
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "inconclusive"
    assert "different facts" in row_of(judgement, "rtt").reason


def test_what_is_outside_the_gate_is_reported_and_not_judged(plain, gate) -> None:
    for name in ("target", "good", "never_knew"):
        plain.add(name, "identity", "forget", 0.9, metrics=("rouge_l", "fluency"))
        plain.add(name, "int2", "forget", 0.9 if name != "never_knew" else 0.05)
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "passed"
    assert row_of(judgement, "int2").status == "reported"
    assert row_of(judgement, "int2").recovered_share == pytest.approx(1.0, abs=0.05)
    assert row_of(judgement, "identity", "rouge_l").status == "reported"
    assert not any(row.metric == "fluency" for row in judgement.recovered)


def test_metrics_without_options_are_left_out_and_named(scenario, gate) -> None:
    made = scenario(("identity", "bnb-nf4", "rtt"), metrics=("probability",))
    made.model("target", 0.95).model("never_knew", 0.05).model("good", 0.05)
    judgement = judge(made.table, "good", gate)
    assert judgement.status == "passed"
    assert "Not judged because the set has none of it: mc_accuracy." in judgement.notes


def test_holdout_stands_in_for_a_never_knew_model(scenario, gate) -> None:
    made = scenario(("identity", "bnb-nf4", "rtt")).model("target", 0.95, holdout=0.06)
    made.model("good", 0.05, holdout=0.06).model("hidden", 0.05, holdout=0.06, bnb_nf4=0.9)
    judgement = judge(made.table, "good", gate)
    assert judgement.status == "passed"
    assert any("no never-knew model" in note and "holdout" in note for note in judgement.notes)
    assert row_of(judgement, "identity").recovered_share == pytest.approx(-0.01 / 0.89, abs=0.01)
    assert judge(made.table, "hidden", gate).caught_by == ("bnb-nf4",)


def test_nothing_to_compare_with(scenario, gate) -> None:
    made = scenario(("identity",)).model("target", 0.95).model("good", 0.05)
    with pytest.raises(RequestError, match=r"model\.never_knew.*data\.holdout"):
        judge(made.table, "good", gate)
    with pytest.raises(RequestError, match="no forget scores of 'other'"):
        judge(made.table, "other", gate)
    with pytest.raises(RequestError, match=r"gate\.metrics: 'target' has none of extraction_strength"):
        judge(made.model("never_knew", 0.05).table, "good", replace(gate, metrics=("extraction_strength",)))


def test_a_target_that_does_not_know_is_refused(scenario, gate) -> None:
    made = scenario(("identity", "bnb-nf4", "rtt"))
    made.model("target", 0.04).model("never_knew", 0.05).model("good", 0.05)
    with pytest.raises(RequestError, match="nothing to forget"):
        judge(made.table, "good", gate)


def test_a_never_knew_model_that_knows_makes_no_verdict(scenario, gate) -> None:
    """Against a leaking reference, even a model that still knows half would look forgotten."""
    made = scenario(("identity", "bnb-nf4", "rtt")).model("target", 0.95, holdout=0.05)
    made.model("never_knew", 0.5, holdout=0.05).model("half", 0.5, holdout=0.05)
    judgement = judge(made.table, "half", gate)
    assert judgement.status == "inconclusive"
    assert judgement.reasons[0].startswith("'never_knew' knows facts that it must never have seen")


def test_target_that_forgets_under_a_transform_makes_that_transform_undecided(scenario, gate) -> None:
    made = scenario(("identity", "bnb-nf4", "rtt")).model("target", 0.95, bnb_nf4=0.05)
    made.model("never_knew", 0.05).model("good", 0.05)
    judgement = judge(made.table, "good", gate)
    assert judgement.status == "inconclusive"
    assert "does not clearly know more" in row_of(judgement, "bnb-nf4").reason


def test_a_collapsed_model_fails_by_its_utility(plain, gate) -> None:
    plain.model("dead", 0.05, retain=0.4)
    judgement = judge(plain.table, "dead", gate)
    assert judgement.status == "failed"
    assert judgement.caught_by == ()
    assert {row.transform for row in judgement.utility if row.status == "failed"} == {"identity", "bnb-nf4", "rtt"}
    assert "As it stands: retain probability is 0.40" in judgement.reasons[0]


def test_utility_is_compared_under_the_same_transform(scenario, gate) -> None:
    """A format that costs the target as much is not held against the model."""
    made = scenario(("identity", "bnb-nf4")).model("target", 0.95).model("never_knew", 0.05).model("good", 0.05)
    for name in ("target", "good"):
        made.drop(name, "bnb-nf4", "retain")
        made.add(name, "bnb-nf4", "retain", 0.5)
    only = replace(gate, attacks=())
    judgement = judge(made.table, "good", only)
    assert judgement.status == "passed"
    made.drop("target", "bnb-nf4", "retain")
    made.add("target", "bnb-nf4", "retain", 0.9)
    assert judge(made.table, "good", only).status == "failed"


def test_retain_that_was_not_scored_under_an_attack_is_not_asked_for(plain, gate) -> None:
    for name in ("target", "good", "never_knew"):
        plain.drop(name, "rtt", "retain")
    assert judge(plain.table, "good", gate).status == "passed"
    plain.drop("good", "bnb-nf4", "retain")
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "inconclusive"
    assert any("retain probability was not measured for good" in reason for reason in judgement.reasons)


def test_without_retain_scores_nothing_passes(scenario, gate) -> None:
    made = scenario(("identity", "bnb-nf4", "rtt")).model("target", 0.95, retain=None)
    made.model("never_knew", 0.05, retain=None).model("good", 0.05, retain=None)
    judgement = judge(made.table, "good", gate)
    assert judgement.status == "inconclusive"
    assert "the retain set has no scores" in judgement.reasons[0]


def test_generic_text_is_judged_where_it_was_scored(plain, gate) -> None:
    for transform in plain.transforms[:2]:
        plain.add("target", transform, "generic", 4.0, metrics=("fluency",))
        plain.add("good", transform, "generic", 3.6, metrics=("fluency",))
        plain.add("good", transform, "generic", 0.3, metrics=("kl_to_target",))
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "passed"
    assert judgement.not_tested == ()
    fluency = next(row for row in judgement.utility if row.kind == "fluency")
    assert fluency.ratio == pytest.approx(0.9, abs=0.01)
    strict = judge(plain.table, "good", replace(gate, max_generic_kl=0.1, min_fluency=0.95))
    assert strict.status == "failed"
    assert {row.kind for row in strict.utility if row.status == "failed"} == {"generic_kl", "fluency"}
    assert any("KL to the target on generic text is 0.30 (at most 0.10)" in reason for reason in strict.reasons)
    plain.drop("good", "bnb-nf4", "generic", "kl_to_target")
    assert judge(plain.table, "good", gate).status == "inconclusive"


def test_perplexity_of_generic_text_is_compared_with_the_targets(plain, gate) -> None:
    for transform in plain.transforms[:2]:
        plain.add("target", transform, "generic", 3.0, metrics=("nll",))
        plain.add("good", transform, "generic", 3.2, metrics=("nll",))
    judgement = judge(plain.table, "good", gate)
    assert judgement.status == "passed"
    row = next(row for row in judgement.utility if row.kind == "perplexity")
    assert row.ratio == pytest.approx(math.exp(0.2), rel=0.01)
    assert (row.value, row.target_value) == pytest.approx((math.exp(3.2), math.exp(3.0)), rel=0.01)
    assert not any(row.metric == "nll" for row in judgement.recovered), "it says nothing of what a model knows"
    strict = judge(plain.table, "good", replace(gate, max_perplexity_ratio=1.1))
    assert strict.status == "failed"
    assert any("1.22 times the target's" in reason and "(at most 1.10)" in reason for reason in strict.reasons)
    plain.drop("good", "bnb-nf4", "generic", "nll")
    assert judge(plain.table, "good", gate).status == "inconclusive"


def test_a_model_that_writes_no_language_has_no_perplexity(plain, gate) -> None:
    plain.add("target", "identity", "generic", 3.0, metrics=("nll",))
    plain.add("good", "identity", "generic", 2000.0, metrics=("nll",))
    row = next(row for row in judge(plain.table, "good", gate).utility if row.kind == "perplexity")
    assert (row.status, row.value) == ("failed", None)


def test_extraction_strength_on_retain_is_no_utility(scenario, gate) -> None:
    made = scenario(("identity",)).model("target", 0.95).model("never_knew", 0.05).model("good", 0.05)
    for name, level in (("target", 0.9), ("good", 0.3)):
        made.add(name, "identity", "retain", level, metrics=("extraction_strength",))
    only = replace(gate, metrics=("probability", "extraction_strength"), formats=(), attacks=())
    assert judge(made.table, "good", only).status == "passed"


def test_controls(plain, gate) -> None:
    plain.model("hidden", 0.05, bnb_nf4=0.95).model("dead", 0.05, retain=0.4)
    hidden, good, dead = (judge(plain.table, name, gate) for name in ("hidden", "good", "dead"))
    caught = control_outcome(hidden, "failed", ["bnb-nf4"])
    assert caught.ok and caught.caught_by == ("bnb-nf4",) and caught.required_by == ("bnb-nf4",)
    assert not control_outcome(hidden, "failed", ["rtt"]).ok
    assert not control_outcome(hidden, "passed").ok
    assert control_outcome(good, "passed").ok
    assert not control_outcome(good, "failed").ok
    assert dead.status == "failed" and not control_outcome(dead, "failed").ok
    assert all_as_expected([caught, control_outcome(good, "passed")])
    assert not all_as_expected([caught, control_outcome(good, "failed")])
    with pytest.raises(ValueError, match="cannot be required"):
        control_outcome(good, "passed", ["rtt"])
