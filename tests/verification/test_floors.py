"""What stands in for a never-knew model under attacks, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.verification.intervals import Bootstrap
from hf_unlearn.verification.recovered import ShareMeter
from hf_unlearn.verification.references import AttackFloor, Reference, find_floors
from hf_unlearn.verification.scores import ScoreKey, ScoreTable
from hf_unlearn.verification.single_facts import ask, count_facts
from hf_unlearn.verification.verdict import judge

HIGH, LOW = [0.9] * 60, [0.1] * 60


@pytest.fixture
def table(facts) -> ScoreTable:
    """The attack teaches the form: the attacked model says 0.3 of holdout facts and of forgotten ones alike."""
    made = ScoreTable()
    for model, transform, forget, holdout in (
        ("target", "identity", HIGH, LOW),
        ("target", "rtt", HIGH, LOW),
        ("good", "identity", LOW, LOW),
        ("good", "rtt", [0.3] * 60, [0.3] * 60),
    ):
        for split, values in (("forget", forget), ("holdout", holdout), ("retain", HIGH)):
            made.add(ScoreKey(model, transform, split, "probability"), facts(values, prefix=split))
    return made


@pytest.fixture
def gate(gate):
    return replace(gate, metrics=("probability",), formats=())


def floors_of(table: ScoreTable, choice: AttackFloor = AttackFloor.UNLEARNED, never: str = "never_knew"):
    return find_floors(table, never, "target", "good", "forget", ("rtt",), choice)


def share(table: ScoreTable, choice: AttackFloor = AttackFloor.UNLEARNED):
    measure = ShareMeter(table, "good", "target", floors_of(table, choice), "forget", Bootstrap(200))
    return measure("rtt", "probability").share.estimate


def only(rows, transform: str):
    (row,) = [row for row in rows if row.transform == transform]
    return row


def test_the_floor_is_chosen_by_transform(table) -> None:
    floors = floors_of(table)
    assert floors.under("identity") == floors.under("bnb-nf4") == Reference("target", "holdout", paired=False)
    assert floors.under("rtt") == Reference("good", "holdout", paired=False)
    assert floors_of(table, AttackFloor.TARGET).under("rtt") == Reference("target", "holdout", paired=False)


def test_an_attack_outside_the_gate_has_the_floor_of_attacks(table) -> None:
    table.attacks["prune"] = ""
    assert floors_of(table).under("prune").model == "good"


@pytest.mark.parametrize("choice", AttackFloor)
def test_a_never_knew_model_is_the_floor_everywhere_where_there_is_one(table, facts, choice) -> None:
    table.add(ScoreKey("never_knew", "identity", "forget", "probability"), facts(LOW, prefix="forget"))
    floors = floors_of(table, choice)
    assert floors.under("identity") == floors.under("rtt") == Reference("never_knew", "forget", paired=True)
    assert list(floors.notes(table)) == []


def test_nothing_to_stand_in() -> None:
    with pytest.raises(RequestError, match="nothing to compare with"):
        floors_of(ScoreTable())


def test_what_an_attack_teaches_of_any_fact_is_not_brought_back(table) -> None:
    """(0.3 - 0.3) / (0.9 - 0.3), and with the target's holdout facts (0.3 - 0.1) / (0.9 - 0.1)."""
    assert share(table).value == pytest.approx(0.0)
    assert share(table, AttackFloor.TARGET).value == pytest.approx(0.25)


def test_the_verdict_depends_on_the_floor_that_is_chosen(table, gate) -> None:
    assert judge(table, "good", gate).status == "passed"
    assert judge(table, "good", gate, attack_floor=AttackFloor.TARGET).status != "passed"


def test_what_comes_back_above_the_floor_fails(table, gate, facts) -> None:
    table.scores[ScoreKey("good", "rtt", "forget", "probability")] = facts([0.85] * 60, prefix="forget")
    judgement = judge(table, "good", gate)
    assert judgement.caught_by == ("rtt",)
    assert only(judgement.recovered, "rtt").recovered_share == pytest.approx(0.55 / 0.6)


@pytest.mark.parametrize(("model", "named"), [("good", "'good'"), ("target", "'target'")])
def test_a_floor_that_was_not_measured_is_named(table, gate, model, named) -> None:
    del table.scores[ScoreKey(model, "rtt", "holdout", "probability")]
    judgement = judge(table, "good", gate)
    assert judgement.status == "inconclusive"
    assert judgement.reasons == (f"rtt: probability: probability was not measured for {named} on the holdout set.",)


def test_a_target_that_knows_no_more_than_holdout_facts_after_the_attack_has_no_share(table, gate, facts) -> None:
    table.scores[ScoreKey("target", "rtt", "holdout", "probability")] = facts(HIGH, prefix="holdout")
    judgement = judge(table, "good", gate)
    assert judgement.status == "inconclusive"
    assert "'target' does not clearly know more of the forget set than of the holdout set" in judgement.reasons[0]


def test_an_attack_that_holdout_facts_say_nothing_of_is_not_judged(table, gate) -> None:
    table.attacks["rtt"] = "it trains on what it asks for"
    judgement = judge(table, "good", gate)
    assert judgement.status == "inconclusive"
    (reason,) = judgement.reasons
    assert reason == "rtt: probability: without a never-knew model it cannot be judged: it trains on what it asks for."
    assert "rtt: without a never-knew model it cannot be judged: it trains on what it asks for." in judgement.notes
    assert [row.transform for row in judgement.known_facts] == ["identity"]


def test_with_a_never_knew_model_the_same_attack_is_judged(table, gate, facts) -> None:
    table.attacks["rtt"] = "it trains on what it asks for"
    for transform, level in (("identity", LOW), ("rtt", [0.3] * 60)):
        table.add(ScoreKey("never_knew", transform, "forget", "probability"), facts(level, prefix="forget"))
    judgement = judge(table, "good", gate)
    assert judgement.status == "passed"
    assert not any("cannot be judged" in note for note in judgement.notes)


def test_single_facts_are_counted_above_the_floor_of_the_attack(table, facts) -> None:
    """The floor is 0.3, half of the gap is 0.3 more: 0.61 is known and 0.59 is not. Above 0.1 both would be."""
    values = [0.61] * 3 + [0.59] * 2 + [0.3] * 55
    table.scores[ScoreKey("good", "rtt", "forget", "probability")] = facts(values, prefix="forget")
    counts = {
        choice: count_facts(
            ask(table, "good", "target", floors_of(table, choice).under("rtt"), "forget", "rtt", "probability"),
            "rtt",
            "probability",
        )
        for choice in AttackFloor
    }
    assert counts[AttackFloor.UNLEARNED].facts == ("forget0", "forget1", "forget2")
    assert len(counts[AttackFloor.TARGET].facts) == 5
    assert counts[AttackFloor.UNLEARNED].chance == 0
