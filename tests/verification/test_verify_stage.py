"""What the verify stage adds to single judgements: controls that must hide well, a candidate, and lost trust."""

from __future__ import annotations

import pytest

from hf_unlearn.recipe import ControlSpec
from hf_unlearn.stages.verify import _hides_well, _outcome, choose_candidate, without_trust
from hf_unlearn.verification.controls import ControlOutcome
from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.scores import FactScores, ScoreKey, ScoreTable
from hf_unlearn.verification.verdict import Judgement, judge


def facts(level: float, split: str) -> FactScores:
    names = [f"{split}{number}" for number in range(60)]
    values = {name: min(1.0, max(0.0, level + (number % 7 - 3) / 300)) for number, name in enumerate(names)}
    return FactScores(values, {name: name for name in names})


def table_of(**levels: dict[str, tuple[float, float]]) -> ScoreTable:
    """Model to transform to (forget, retain)."""
    table = ScoreTable()
    for model, transforms in levels.items():
        for transform, pair in transforms.items():
            for split, level in zip(("forget", "retain"), pair, strict=True):
                for metric in ("probability", "exact_match"):
                    key = ScoreKey(model, transform.replace("_", "-"), split, metric)
                    table.add(key, facts(level, split))
    return table


GATE = Gate(metrics=("probability",), formats=("bnb-nf4",), attacks=(), draws=500)


@pytest.fixture
def table() -> ScoreTable:
    knows, forgot, hidden = (0.95, 0.95), (0.02, 0.94), (0.10, 0.93)
    return table_of(
        target={"identity": knows, "bnb_nf4": knows},
        never_knew={"identity": forgot, "bnb_nf4": forgot},
        clean={"identity": forgot, "bnb_nf4": forgot},
        half={"identity": forgot, "bnb_nf4": (0.5, 0.94)},
        surface={"identity": (0.4, 0.94), "bnb_nf4": (0.5, 0.94)},
        hider={"identity": hidden, "bnb_nf4": knows},
    )


def test_the_candidate_is_the_best_verdict_then_the_fewest_failures(table):
    judgements = {name: judge(table, name, GATE) for name in ("surface", "half", "clean")}
    assert choose_candidate(["surface", "half"], judgements) == "half"
    assert choose_candidate(["surface", "half", "clean"], judgements) == "clean"


def test_over_forgotten_transforms_count_as_failed(table):
    """Both fail; the one that also marks its answers in the format has one failure more, whatever the shares are."""
    above, nothing = facts(0.30, "forget"), facts(0.02, "forget")
    for transform, never in (("identity", nothing), ("bnb-nf4", above)):
        table.scores[ScoreKey("never_knew", transform, "forget", "probability")] = never
    kept = facts(0.94, "retain")
    for name, in_format in (("marks", nothing), ("plain", above)):
        for transform, forget in (("identity", facts(0.95, "forget")), ("bnb-nf4", in_format)):
            table.scores[ScoreKey(name, transform, "forget", "probability")] = forget
            table.scores[ScoreKey(name, transform, "retain", "probability")] = kept
    judgements = {name: judge(table, name, GATE) for name in ("marks", "plain")}
    over = [row for row in judgements["marks"].recovered if row.over_forgotten]
    assert [(row.transform, row.status, row.still_known) for row in over] == [("bnb-nf4", "failed", False)]
    assert [judgement.status for judgement in judgements.values()] == ["failed", "failed"]
    assert choose_candidate(["marks", "plain"], judgements) == "plain"


def test_a_hidden_control_must_look_forgotten_as_it_stands(table):
    control = ControlSpec("hider", "bin_hidden", "failed", ("bnb-nf4",), max_forget_score=0.2, min_retain_score=0.9)
    judgements = {"hider": judge(table, "hider", GATE)}
    assert _outcome(control, table, judgements).ok
    for most, least in ((0.05, 0.9), (0.2, 0.99)):
        strict = ControlSpec("hider", "bin_hidden", "failed", ("bnb-nf4",), None, None, {}, most, least)
        assert not _hides_well(strict, table, "hider")
        assert not _outcome(strict, table, judgements).ok


def test_a_control_that_is_caught_by_something_else_is_not_ok(table):
    control = ControlSpec("half", "bin_hidden", "failed", ("identity",))
    assert not _outcome(control, table, {"half": judge(table, "half", GATE)}).ok


def test_a_pass_from_a_verifier_that_misjudged_a_control_is_no_pass(table):
    passed: Judgement = judge(table, "clean", GATE)
    assert passed.status == "passed"
    right = ControlOutcome("hider", "failed", "failed", ("bnb-nf4",), ("bnb-nf4",), True)
    wrong = ControlOutcome("hider", "failed", "passed", (), ("bnb-nf4",), False)
    assert without_trust(passed, [right]) is passed
    doubted = without_trust(passed, [right, wrong])
    assert doubted.status == "inconclusive" and "hider" in doubted.reasons[0]
    failed = judge(table, "half", GATE)
    assert without_trust(failed, [wrong]) is failed
