"""Attacks that measure some of the gate's metrics only: judged by those, said so, and never passed by leaving out."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from hf_unlearn.hub.card import render_card
from hf_unlearn.hub.metadata import CardWords
from hf_unlearn.reporting.html import render_html
from hf_unlearn.verification.build_report import Candidate, Findings, RunFacts, build_report
from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.report import AttackRun, ModelInfo, SetInfo
from hf_unlearn.verification.verdict import Judgement, judge

PROBE = "linear-probe"


@pytest.fixture
def probed(scenario):
    """All models under a format and under a probe that measures mc_accuracy alone."""
    made = scenario(("identity", "bnb-nf4", PROBE))
    made.model("target", 0.95).model("never_knew", 0.05).model("good", 0.05).model("hidden", 0.05, linear_probe=0.9)
    for name in ("target", "never_knew", "good", "hidden"):
        made.drop(name, PROBE, "forget", "probability")
    return made


@pytest.fixture
def probe_gate(gate: Gate) -> Gate:
    return replace(gate, attacks=(PROBE,))


def judged_by(judgement: Judgement, transform: str) -> list[str]:
    return [row.metric for row in judgement.recovered if row.transform == transform and row.threshold is not None]


def test_a_probe_is_judged_by_what_it_measures_and_the_report_says_so(probed, probe_gate) -> None:
    judgement = judge(probed.table, "good", probe_gate)
    assert judgement.status == "passed"
    assert judged_by(judgement, PROBE) == ["mc_accuracy"]
    assert judged_by(judgement, "bnb-nf4") == ["probability", "mc_accuracy"]
    assert judgement.family.comparisons == 5
    said = f"{PROBE}: judged by mc_accuracy alone: probability is not measured under {PROBE}."
    assert judgement.notes.count(said) == 1
    assert "(where these are measured)" in judgement.reasons[0]
    assert "tested, by 2 metrics" in judgement.notes[0]


def test_card_and_page_say_once_what_was_left_out(probed, probe_gate) -> None:
    for name in ("target", "never_knew", "good"):
        probed.add(name, "interpolate", "forget", 0.05)
    findings = Findings(
        table=probed.table,
        gate=probe_gate,
        judgements=[judge(probed.table, "good", probe_gate)],
        candidates=["good"],
        attacks=[AttackRun(name, "good", 1, {}) for name in (PROBE, "interpolate")],
    )
    run = RunFacts(
        name="probed",
        created="2026-01-02T03:04:05+00:00",
        target=ModelInfo(description="tiny model"),
        never_knew=ModelInfo(description="tiny model without the facts"),
        data={"forget": SetInfo(60, 60, "c" * 64)},
        not_tested=["membership inference"],
    )
    report = build_report(findings, Candidate("good", {"identity": {}, "bnb-nf4": {}}), run)
    card = render_card(report, "identity", CardWords(title="Tiny", removed="birth years"))
    page = html.unescape(render_html(report))
    for text, metric in ((card, "mc_accuracy"), (page, "multiple-choice accuracy")):
        assert text.count(f"judged by {metric} alone: probability is not measured under {PROBE}.") == 1
        (untested,) = [line for line in text.splitlines() if "membership inference" in line]
        assert PROBE not in untested and "interpolate" not in untested
    headline = card.split("What was removed")[1].split("The forget score should fall")[0]
    assert re.search(rf"\| {PROBE} \| – \| \*\*–\*\* \| – \|.*by multiple-choice accuracy \| passed \|", headline)
    assert f"- Attack `{PROBE}`: survived." in card
    assert "- Attack `interpolate`: run, not judged." in card
    assert "Run, not judged: interpolate." in page


def test_what_a_probe_finds_fails(probed, probe_gate) -> None:
    judgement = judge(probed.table, "hidden", probe_gate)
    assert judgement.status == "failed"
    assert judgement.caught_by == (PROBE,)


def test_a_metric_that_the_target_has_is_never_left_out(probed, probe_gate) -> None:
    probed.add("target", PROBE, "forget", 0.95, metrics=("probability",))
    judgement = judge(probed.table, "good", probe_gate)
    assert judgement.status == "inconclusive"
    assert judged_by(judgement, PROBE) == ["probability", "mc_accuracy"]
    assert any(f"{PROBE}: probability: probability was not measured" in reason for reason in judgement.reasons)


def test_a_metric_that_only_the_judged_model_has_is_not_left_out(probed, probe_gate) -> None:
    probed.add("good", PROBE, "forget", 0.95, metrics=("probability",))
    assert judge(probed.table, "good", probe_gate).status == "inconclusive"


@pytest.mark.parametrize("missing", ["good", "target", "never_knew"])
def test_an_attack_that_is_not_scored_for_one_model_is_not_passed(probed, probe_gate, missing: str) -> None:
    probed.drop(missing, PROBE)
    assert judge(probed.table, "good", probe_gate).status == "inconclusive"


def test_an_attack_of_which_no_metric_is_left_is_not_passed(probed, probe_gate) -> None:
    """It was run, so it is not among what was not tested; and it has no outcome that could be taken for a pass."""
    for name in ("target", "never_knew", "good"):
        probed.drop(name, PROBE, "forget", "mc_accuracy")
        probed.add(name, PROBE, "forget", 0.05, metrics=("rouge_l",))
    judgement = judge(probed.table, "good", probe_gate)
    assert judgement.status == "inconclusive"
    assert f"{PROBE} is in the gate, and none of probability, mc_accuracy was measured under it." in judgement.reasons
    assert PROBE not in judgement.not_tested
    assert [outcome.transform for outcome in judgement.outcomes] == ["identity", "bnb-nf4"]
    assert judgement.notes[0].startswith("2 of 3 conditions")


def test_in_a_format_every_metric_is_judged(probed, probe_gate) -> None:
    for name in ("target", "never_knew", "good"):
        probed.drop(name, "bnb-nf4", "forget", "mc_accuracy")
    judgement = judge(probed.table, "good", probe_gate)
    assert judgement.status == "inconclusive"
    assert judged_by(judgement, "bnb-nf4") == ["probability", "mc_accuracy"]


def test_attacks_with_the_same_metrics_share_a_sentence(scenario, gate) -> None:
    made = scenario(("identity", "one", "two", "rtt"), metrics=("probability", "mc_accuracy", "extraction_strength"))
    made.model("target", 0.95).model("never_knew", 0.05).model("good", 0.05)
    for name in ("target", "never_knew", "good"):
        for attack in ("one", "two"):
            made.drop(name, attack, "forget", "probability")
            made.drop(name, attack, "forget", "extraction_strength")
    wide = replace(gate, formats=(), attacks=("one", "two", "rtt"), metrics=made.metrics)
    notes = judge(made.table, "good", wide).notes
    said = "one and two: judged by mc_accuracy alone: probability and extraction_strength are not measured under one"
    assert f"{said} and two." in notes
