"""A verdict holds only if every earlier deletion request holds too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_unlearn.verification.earlier import with_earlier
from hf_unlearn.verification.verdict import judge


def judged(scenario, gate, level: float, *, with_utility: bool = True, retain: float | None = 0.95):
    made = scenario(("identity", "bnb-nf4", "rtt"))
    made.model("target", 0.95, retain=retain).model("never_knew", 0.05, retain=retain).model("m", level, retain=retain)
    return judge(made.table, "m", gate, with_utility=with_utility)


def test_without_utility_nothing_is_said_of_it(scenario, gate):
    assert judged(scenario, gate, 0.05, retain=None).status == "inconclusive"
    alone = judged(scenario, gate, 0.05, retain=None, with_utility=False)
    assert alone.status == "passed" and not alone.utility and not alone.not_tested
    assert "keeps its use" not in alone.reasons[0]
    assert "keeps its use" in judged(scenario, gate, 0.05).reasons[0]


@pytest.mark.parametrize(
    ("now", "earlier", "status"),
    [
        ("passed", ("passed", "passed"), "passed"),
        ("passed", ("passed", "failed"), "failed"),
        ("inconclusive", ("failed", "passed"), "failed"),
        ("passed", ("inconclusive", "passed"), "inconclusive"),
        ("failed", ("inconclusive", "passed"), "failed"),
    ],
)
def test_the_worst_status_counts(scenario, gate, now, earlier, status):
    made = judged(scenario, gate, 0.05)
    parts = {f"r{number}": replace(made, status=each) for number, each in enumerate(earlier)}
    assert with_earlier(replace(made, status=now), parts).status == status


def test_a_request_that_comes_back_is_named_first(scenario, gate):
    good, back = judged(scenario, gate, 0.05), judged(scenario, gate, 0.9, with_utility=False)
    undecided = replace(good, status="inconclusive", reasons=("Too few facts.",))
    reasons = with_earlier(undecided, {"r1": good, "r2": back}).reasons
    assert reasons[0].startswith("Earlier request r2: As it stands: forgotten knowledge is still there by ")
    assert reasons[-1] == "Too few facts."
    assert not any("r1" in reason for reason in reasons)


def test_nothing_changes_without_earlier_requests(scenario, gate):
    made = judged(scenario, gate, 0.05)
    assert with_earlier(made, {}) is made
    together = with_earlier(made, {"r1": made})
    assert together.reasons == (*made.reasons, "What earlier requests asked for stays forgotten too: r1.")
