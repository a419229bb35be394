"""What an attack could spend is said in words that need no page of documentation."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hf_unlearn.reporting.budgets import budget_phrases
from hf_unlearn.reporting.html import render_html
from hf_unlearn.reporting.results import Results
from hf_unlearn.reporting.sentences import outcome_sentences

RTT = {
    "folds": 5,
    "run_folds": 3,
    "groups_in_T": 160,
    "groups_in_V": 40,
    "rows_in_T": 480,
    "leaks": {"handled": "apart"},
    "learning_rates": [0.001],
    "epochs": 6,
    "gives_up_after": 2,
}
WORDS = (
    "3 of 5 folds, each trained on 160 groups of forgotten facts and asked for 40 others, 6 epochs, "
    "learning rate 0.001, given up after 2 epochs without gain"
)


def plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(
    ("budget", "folds", "words"),
    [
        (RTT, None, WORDS),
        (
            {"facts_trained_on": 1, "facts_asked_for": 9, "learning_rates": [1, 2]},
            1,
            "1 fact to train on, 9 facts to ask for, learning rates 1/2",
        ),
        ({"run_folds": 2, "epochs": 1}, None, "2 folds, 1 epoch"),
        ({"shares": [0.1]}, None, ""),
        ({"epochs": 5, "gives_up_after": 8}, None, "5 epochs"),
        ({"epochs": 8, "gives_up_after": 8}, None, "8 epochs"),
        ({"epochs": 9, "gives_up_after": 8}, None, "9 epochs, given up after 8 epochs without gain"),
        ({"gives_up_after": 1}, None, "given up after 1 epoch without gain"),
    ],
)
def test_settings_have_words(budget, folds, words):
    assert ", ".join(budget_phrases(budget, folds, plain)) == words


NO_PLOTS = dict.fromkeys(("forget", "shares", "control_shares", "grids", "layers", "retain"))


def report_with(sample: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
    outcome = {"transform": "rtt", "kind": "attack", "status": "passed", "causes": [], "worst_share": 0.1}
    made = {"budget": budget, "folds": budget["run_folds"]}
    attacks = [{**run, **made, "best": [{**run["best"][0], "stopped": [0.001]}]} for run in sample["attacks"]]
    verdict = {**sample["verdict"], "outcomes": [{**outcome, "budget": budget}]}
    return {**sample, "verdict": verdict, "attacks": attacks}


def test_terminal_and_page_say_the_same_without_letters(sample_report):
    report = report_with(sample_report, RTT)
    (survived, *_) = outcome_sentences(Results(report))
    assert survived == f"Survived: rtt ({WORDS})."
    page = re.sub(r"<[^>]+>", "", render_html(report, NO_PLOTS))
    assert f"rtt: {WORDS}." in page and "stopped early: 0.001" in page
    for letters in ("groups in T", "groups in V", "rows in T", "gives up after"):
        assert letters not in page
    assert "groups of facts to train on 160" in page


def test_an_attack_without_folds_says_nothing_of_them(sample_report):
    report = report_with(sample_report, {"run_folds": 1, "shares": [0.1, 0.2]})
    assert outcome_sentences(Results(report))[0] == "Survived: rtt (shares 0.1/0.2)."
