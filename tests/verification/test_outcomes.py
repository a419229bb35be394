"""What was survived and what was failed, and for what."""

from __future__ import annotations

import pytest

from hf_unlearn.verification.verdict import judge


def outcome(judgement, transform: str):
    return next(each for each in judgement.outcomes if each.transform == transform)


def test_every_tested_transform_has_one_outcome(plain, gate) -> None:
    plain.model("hidden", 0.05, bnb_nf4=0.95)
    judgement = judge(plain.table, "hidden", gate)
    assert [each.transform for each in judgement.outcomes] == ["identity", "bnb-nf4", "rtt"]
    assert outcome(judgement, "identity").status == "passed" and outcome(judgement, "identity").causes == ()
    found = outcome(judgement, "bnb-nf4")
    assert found.status == "failed" and found.causes == ("knowledge",)
    assert found.worst_share == pytest.approx(1.0, abs=0.03)


def test_causes_are_told_apart(scenario, gate) -> None:
    made = scenario(("identity", "bnb-nf4", "rtt")).model("target", 0.95).model("never_knew", 0.25)
    collapsed = judge(made.model("collapsed", 0.25, retain=0.1).table, "collapsed", gate)
    assert {each.causes for each in collapsed.outcomes} == {("utility",)}
    burnt = judge(made.model("burnt", 0.02, retain=0.1).table, "burnt", gate)
    assert outcome(burnt, "identity").causes == ("over-forgetting", "utility")


def test_undecided_and_untested(plain, gate) -> None:
    plain.drop("good", "bnb-nf4")
    plain.drop("never_knew", "rtt", "forget", "mc_accuracy")
    judgement = judge(plain.table, "good", gate)
    assert [each.transform for each in judgement.outcomes] == ["identity", "rtt"]
    assert outcome(judgement, "rtt").status == "inconclusive"
