"""Reasons and controls in words: made of the report's numbers, grouped, the most telling first."""

from __future__ import annotations

from typing import Any

import pytest

from hf_unlearn.reporting.results import Results
from hf_unlearn.reporting.sentences import caught_by, control_note, control_sentence, grouped_reasons, where_words

FORMATS = ["bnb-int8", "bnb-nf4", "bnb-fp4"]
GATE = {
    "metrics": ["probability", "mc_accuracy"],
    "formats": FORMATS,
    "attacks": ["rtt"],
    "max_recovered_share_formats": 0.10,
    "max_recovered_share_attacks": 0.20,
    "min_recovered_share": -0.15,
    "min_utility": 0.90,
    "max_generic_kl": 0.50,
    "min_fluency": 0.80,
    "confidence": 0.95,
    "draws": 10000,
}


def share(transform: str, metric: str, value: float, status: str, model: str = "m", **more: Any) -> dict[str, Any]:
    """A row of ``recovered``, with its reason in the words of the verdict."""
    reason = "" if status == "passed" else f"recovered share {value:.2f} of {metric}."
    ends = [value - 0.02, value + 0.02]
    key = {"model": model, "transform": transform, "metric": metric, "recovered_share": value, "ci95": ends}
    limit = 0.20 if transform == "rtt" else 0.10
    return {**key, "retention_ratio": value, "threshold": limit, "status": status, "reason": reason, "n": 9, **more}


def kept(transform: str, ratio: float) -> dict[str, Any]:
    """A failed row of ``utility``."""
    key = {"model": "m", "transform": transform, "kind": "retain_score", "metric": "probability", "status": "failed"}
    reason = f"retain probability is {ratio:.2f} of the target's."
    return {**key, "value": ratio, "target_value": 1.0, "ratio": ratio, "threshold": 0.9, "reason": reason}


def sentence(row: dict[str, Any]) -> str:
    """A reason as the verdict writes it."""
    where = "As it stands" if row["transform"] == "identity" else row["transform"]
    return f"{where}: forgotten knowledge is still there by {row['metric']}: {row['reason']}"


def results(recovered: list[dict[str, Any]], utility: list[dict[str, Any]] | None = None, **more: Any) -> Results:
    """A report with these rows about a candidate called m."""
    verdict = {"status": "failed", "candidate": "m", "reasons": []}
    return Results({"gate": GATE, "verdict": verdict, "recovered": recovered, "utility": utility or [], **more})


def test_the_same_reason_under_several_transforms_is_said_once_and_the_largest_first() -> None:
    rows = [share(name, "mc_accuracy", 0.19 + i / 100, "failed") for i, name in enumerate(["identity", *FORMATS])]
    rows += [share(name, "probability", 0.03, "passed") for name in ["identity", *FORMATS]]
    rows += [share("rtt", "mc_accuracy", 0.96, "failed"), share("rtt", "probability", 0.57, "failed")]
    lost = [kept("identity", 0.80), kept("bnb-nf4", 0.79)]
    reasons = [sentence(row) for row in rows if row["status"] == "failed"]
    reasons += [f"As it stands: {lost[0]['reason']}", f"bnb-nf4: {lost[1]['reason']}", "awq was not tested."]
    assert grouped_reasons(results(rows, lost), "m", reasons) == [
        "After rtt, forgotten knowledge is back: recovered share by multiple-choice accuracy 0.96 [0.94, 0.98] and "
        "answer probability 0.57 [0.55, 0.59] (at most 0.20 allowed).",
        "As it stands and in all 3 formats, forgotten knowledge is there: recovered share by multiple-choice accuracy "
        "0.19 to 0.22 (at most 0.10 allowed).",
        "As it stands and in bnb-nf4, the retain answer probability is only 0.79 to 0.80 of the target's (at least "
        "0.90 needed).",
        "awq was not tested.",
    ]


def test_transforms_that_fail_by_other_metrics_are_kept_apart() -> None:
    rows = [
        share("bnb-nf4", "probability", 0.9, "failed"),
        share("bnb-fp4", "mc_accuracy", 0.3, "failed"),
        share("bnb-int8", "probability", 0.09, "inconclusive", more_needed=90),
    ]
    assert grouped_reasons(results(rows), "m", [sentence(row) for row in rows]) == [
        "In bnb-nf4, forgotten knowledge is there: recovered share by answer probability 0.90 [0.88, 0.92] (at most "
        "0.10 allowed).",
        "In bnb-fp4, forgotten knowledge is there: recovered share by multiple-choice accuracy 0.30 [0.28, 0.32] (at "
        "most 0.10 allowed).",
        "In bnb-int8, not settled whether the forgotten facts are gone: recovered share by answer probability 0.09 "
        "[0.07, 0.11]; about 90 more facts would settle it (at most 0.10 allowed).",
    ]


def test_over_forgetting_and_what_stands_first_keep_their_words() -> None:
    rows = [share("identity", "probability", -0.4, "failed", over_forgotten=True)]
    leak = "The never-knew model knows what it must not."
    assert grouped_reasons(results(rows), "m", [leak, sentence(rows[0])]) == [
        leak,
        "As it stands, the answers lie below a model that never knew, which marks them: recovered share by answer "
        "probability -0.40 [-0.42, -0.38].",
    ]


def test_a_utility_number_that_is_not_there_is_said_as_the_report_says_it() -> None:
    row = {**kept("bnb-nf4", 0.5), "value": None, "ratio": None, "reason": "retain probability is not finite."}
    assert grouped_reasons(
        results([share("rtt", "probability", 0.0, "passed")], [row]), "m", ["bnb-nf4: " + row["reason"]]
    ) == ["In bnb-nf4, retain probability is not finite."]


def test_a_share_that_is_not_there_is_named_with_its_reason_and_never_a_dash() -> None:
    unmeasured = "probability was not measured for 'm' on the holdout set."
    missing = {"recovered_share": None, "ci95": None, "retention_ratio": None, "reason": unmeasured}
    rows = [
        {**share("rtt", "probability", 0.0, "inconclusive"), **missing},
        {**share("bnb-nf4", "probability", 0.0, "inconclusive"), **missing},
        share("rtt", "mc_accuracy", 0.15, "inconclusive"),
    ]
    found = grouped_reasons(results(rows), "m", [sentence(row) for row in rows])
    assert found == [
        "After rtt, not settled whether the forgotten facts are gone: recovered share by multiple-choice accuracy "
        "0.15 [0.13, 0.17] (at most 0.20 allowed).",
        f"In bnb-nf4 and after rtt, there is no recovered share by answer probability: {unmeasured}",
    ]
    assert not any("–" in each for each in found)


def test_reasons_that_are_not_about_rows_are_left_alone() -> None:
    rows = [share("rtt", "probability", 0.9, "failed")]
    assert grouped_reasons(results(rows), "m", ["one", "two"]) == ["one", "two"]


def test_places_in_words() -> None:
    shown = results([share(name, "probability", 0.1, "passed") for name in ("identity", *FORMATS, "rtt")])
    assert where_words(shown, ["rtt"]) == "after rtt"
    assert where_words(shown, ["bnb-fp4", "identity"]) == "as it stands and in bnb-fp4"
    assert where_words(shown, [*FORMATS, "rtt", "identity"]) == "as it stands, in all 3 formats and after rtt"


def control(**change: Any) -> dict[str, Any]:
    """A row of ``controls``: a hidden model that was caught in NF4 and by retraining."""
    row = {"name": "b", "expected": "failed", "status": "failed", "caught_by": ["rtt", "bnb-nf4"]}
    return {**row, "required_by": ["bnb-nf4"], "ok": True, **change}


@pytest.mark.parametrize(
    ("change", "sentence", "note"),
    [
        (
            {},
            "b failed, as it must: what is left in it is found in bnb-nf4 (recovered share 0.97 by answer "
            "probability, 0.06 as it stands)",
            "as it must",
        ),
        (
            {"ok": False},
            "b failed, but not as it must: what is left in it is found in bnb-nf4 (recovered share 0.97 by answer "
            "probability, 0.06 as it stands), but that proves little, because as it stands it does not look forgotten "
            "and useful (forget exact match 0.35 and retain exact match 0.78)",
            "no proof",
        ),
        (
            {"ok": False, "caught_by": ["rtt"]},
            "b failed, but not as it must: the tests do not find what is left in it in bnb-nf4, only after rtt",
            "not caught",
        ),
        (
            {"ok": False, "caught_by": []},
            "b failed, but not as it must: the tests do not find what is left in it; it failed for something else",
            "not caught",
        ),
        (
            {"ok": False, "status": "passed", "caught_by": []},
            "b passed, but must fail: the tests do not find what is left in it",
            "must fail",
        ),
        (
            {"expected": "passed", "status": "passed", "caught_by": [], "required_by": []},
            "b passed, as it must: the tests do not accuse a model that has nothing to hide",
            "as it must",
        ),
        (
            {"expected": "passed", "ok": False, "required_by": []},
            "b failed, but must pass: the tests find knowledge where there is none (bnb-nf4 and rtt)",
            "must pass",
        ),
        (
            {"expected": "passed", "ok": False, "required_by": [], "caught_by": []},
            "b failed, but must pass: it has nothing to hide, and failed for something else than knowledge",
            "must pass",
        ),
        ({"status": None, "ok": None}, "b was not judged", ""),
    ],
)
def test_controls_in_words(change: dict[str, Any], sentence: str, note: str) -> None:
    rows = [
        share("identity", "probability", 0.06, "passed", "b"),
        share("bnb-nf4", "probability", 0.97, "failed", "b"),
        share("rtt", "probability", 0.9, "failed", "b"),
    ]
    key = {"model": "b", "transform": "identity", "metric": "exact_match"}
    scores = [{**key, "split": "forget", "value": 0.35}, {**key, "split": "retain", "value": 0.78}]
    shown = results(rows, controls=[control(**change)], scores=scores)
    subject = shown.controls[0]
    assert control_sentence(shown, subject) == sentence
    assert control_note(subject) == note
    if subject.caught_by == ("rtt", "bnb-nf4"):
        assert caught_by(shown, subject) == ("bnb-nf4", "rtt")
