"""A report read for people: order, headline, statuses, and what is not there."""

from __future__ import annotations

from typing import Any

import pytest

from hf_unlearn.reporting.results import Results, worst
from hf_unlearn.reporting.sentences import summarize
from hf_unlearn.reporting.words import metric_label, show, show_interval
from hf_unlearn.verification.report_file import schema_problems


def test_sample_is_a_real_report(sample_report: dict[str, Any]) -> None:
    assert schema_problems(sample_report) == []


def test_models_are_in_the_order_they_are_shown(sample_report: dict[str, Any]) -> None:
    subjects = Results(sample_report).subjects
    assert [(subject.name, subject.role) for subject in subjects] == [
        ("target", "target"),
        ("never_knew", "never_knew"),
        ("npo-kl", "release"),
        ("npo-kl-sure", "candidate"),
        ("ga", "candidate"),
        ("bin-hidden", "control"),
        ("output-hidden", "control"),
        ("never-knew-2", "control"),
    ]


def test_transforms_follow_the_gate_even_when_scores_are_sorted_by_name(sample_report: dict[str, Any]) -> None:
    sample_report["scores"].sort(key=lambda row: (row["model"], row["transform"]))
    found = [(transform.name, transform.kind) for transform in Results(sample_report).transforms]
    formats = [(name, "format") for name in sample_report["gate"]["formats"]]
    assert found == [("identity", "identity"), *formats, ("rtt", "attack")]


def test_an_attack_outside_the_gate_is_known_by_its_budget(sample_report: dict[str, Any]) -> None:
    sample_report["gate"] = {**sample_report["gate"], "attacks": []}
    assert Results(sample_report).transforms[-1].kind == "attack"


def test_headline_is_probability_then_multiple_choice_then_what_there_is(sample_report: dict[str, Any]) -> None:
    assert Results(sample_report).headline == "probability"
    sample_report["scores"] = [row for row in sample_report["scores"] if row["metric"] != "probability"]
    assert Results(sample_report).headline == "mc_accuracy"
    sample_report["scores"] = [row for row in sample_report["scores"] if row["metric"] != "mc_accuracy"]
    assert Results(sample_report).headline == "extraction_strength"
    assert Results({}).headline is None


def test_status_of_a_cell_is_the_worst_over_gate_metrics(sample_report: dict[str, Any]) -> None:
    for row in sample_report["recovered"]:
        if (row["model"], row["transform"], row["metric"]) == ("npo-kl", "bnb-nf4", "mc_accuracy"):
            row["status"] = "inconclusive"
    results = Results(sample_report)
    assert results.forget_status("npo-kl", "bnb-nf4") == "inconclusive"
    assert results.forget_status("npo-kl", "bnb-int8") == "passed"
    assert results.forget_status("npo-kl", "rtt") == "failed"
    assert results.retain_status("ga", "identity") == "failed"
    assert results.retain_status("ga", "rtt") is None
    assert results.forget_status("target", "identity") is None


def test_limits_and_reported_rows(sample_report: dict[str, Any]) -> None:
    results = Results(sample_report)
    assert results.limit("bnb-nf4") == 0.10
    assert results.limit("rtt") == 0.20
    assert results.limit("prune-20") is None
    sample_report["recovered"].append(
        {**sample_report["recovered"][0], "transform": "prune-20", "threshold": None, "status": "reported"}
    )
    reported = [share for share in Results(sample_report).shares("npo-kl") if share.transform == "prune-20"]
    assert [(share.threshold, share.status) for share in reported] == [(None, "reported")]


def test_intervals_are_called_what_the_gate_made_them(small_report: dict[str, Any]) -> None:
    assert Results(small_report).intervals == "95 % intervals"
    small_report["gate"] = {**small_report["gate"], "confidence": 0.99}
    assert Results(small_report).intervals == "99 % intervals"


def test_a_control_without_ok_is_compared_with_what_it_must_be() -> None:
    rows = [
        {"name": "a", "expected": "failed", "status": "failed"},
        {"name": "b", "expected": "failed", "status": "passed"},
        {"name": "c", "expected": "passed"},
    ]
    assert [control.as_expected for control in Results({"controls": rows}).controls] == [True, False, None]


def test_numbers_as_people_write_them() -> None:
    assert (show(0.0414), show(None), show(-0.0001), show(-0.15), show(1, 2)) == (
        "0.041",
        "–",
        "0.000",
        "-0.150",
        "1.00",
    )
    assert show_interval((-0.02, 0.05)) == "-0.020 to 0.050"
    assert show_interval(None) == ""
    assert worst(["passed", "reported", None, "inconclusive"]) == "inconclusive"
    assert worst([None, "reported"]) is None
    assert (metric_label("mc_accuracy"), metric_label("truth_ratio")) == ("multiple-choice accuracy", "truth ratio")


def test_summary_of_a_failure_names_the_largest_share_and_its_limit(sample_report: dict[str, Any]) -> None:
    failed = [row for row in sample_report["recovered"] if row["model"] == "npo-kl" and row["status"] == "failed"]
    largest = max(row["recovered_share"] for row in failed)
    text = summarize(Results(sample_report))
    assert f"after rtt, {100 * largest:.0f} % of what had to go is back (recovered share {largest:.3f} by" in text
    assert "; the gate allows 0.20)" in text
    assert "lost too much" not in text
    before, after, never = (
        next(
            row["value"]
            for row in sample_report["scores"]
            if (row["model"], row["transform"], row["split"], row["metric"])
            == (name, "identity", "forget", "probability")
        )
        for name in ("target", "npo-kl", "never_knew")
    )
    assert f"went from {before:.3f} to {after:.3f}; a model that never knew has {never:.3f}" in text


@pytest.mark.parametrize(
    ("status", "change", "part"),
    [
        ("passed", {"status": "passed"}, "npo-kl forgot what it had to: in all 8 forms"),
        ("inconclusive", {"status": "inconclusive", "more_needed": 90}, "About 90 more facts would settle it."),
        ("inconclusive", {"status": "passed"}, "do not settle whether npo-kl forgot: bnb-fp4 was not tested."),
        ("failed", {"status": "failed", "recovered_share": -0.4}, "which marks them: recovered share -0.400"),
        ("failed", {"status": "passed"}, "npo-kl did not pass: bnb-fp4 was not tested."),
    ],
)
def test_summary_of_other_outcomes(
    small_report: dict[str, Any], status: str, change: dict[str, Any], part: str
) -> None:
    reasons = ["bnb-fp4 was not tested."]
    small_report["verdict"] = {"status": status, "reasons": reasons, "candidate": "npo-kl"}
    small_report["recovered"] = [{**row, **change} for row in small_report["recovered"]]
    assert part in summarize(Results(small_report))


def test_summary_of_lost_utility(small_report: dict[str, Any]) -> None:
    small_report["recovered"] = [{**row, "status": "passed"} for row in small_report["recovered"]]
    small_report["utility"][3] |= {"status": "failed", "reason": "retain probability is 0.40, too low."}
    text = summarize(Results(small_report))
    assert text == "npo-kl lost too much of what it had to keep (bf16): retain probability is 0.40, too low."


def test_an_empty_report_is_read() -> None:
    results = Results({})
    assert (results.subjects, results.transforms, results.metrics, results.release) == ((), (), (), None)
    assert summarize(results) == "The verdict is unknown; the report names no release candidate."
