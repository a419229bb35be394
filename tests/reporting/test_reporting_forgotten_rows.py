"""Which rows were forgotten, where people look: a sentence, and a line per condition."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from hf_unlearn.reporting.forgotten_rows import forgotten_rows_sentence
from hf_unlearn.reporting.html import render_html
from hf_unlearn.reporting.results import Results
from hf_unlearn.reporting.sentences import summarize
from hf_unlearn.reporting.terminal import print_results


def row(model: str, auc: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "transform": "identity",
        "auc": auc,
        "ci95": [low, high],
        "n": 114,
        "signals": [
            {"signal": "loss", "auc": 1 - auc, "ci95": [1 - high, 1 - low]},
            {"signal": "entropy", "auc": 0.47, "ci95": [0.4, 0.6]},
        ],
        "threshold": None,
        "status": "reported",
        "reason": "",
        **more,
    }


@pytest.fixture
def marked(small_report: dict[str, Any]) -> dict[str, Any]:
    rows = [row("npo-kl", 0.91, 0.84, 0.96), row("never_knew", 0.53, 0.5, 0.61)]
    return {**small_report, "schema_version": "1.5", "forgotten_rows": rows}


def printed(report: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_results(report, console)
    return console.file.getvalue()


def test_the_sentence_says_how_and_beside_what(marked) -> None:
    assert forgotten_rows_sentence(Results(marked), "npo-kl") == (
        "Somebody who has only this model can tell forgotten rows from holdout rows: forgotten answers are less "
        "likely than holdout ones (AUC 0.91 [0.84, 0.96] as it stands, 0.5 is a guess; a model that never knew: 0.53 "
        "[0.50, 0.61])."
    )
    assert forgotten_rows_sentence(Results(marked), "never_knew").startswith(
        "Nothing shows that the model alone tells"
    )


def test_the_terminal_has_a_line_per_condition(marked) -> None:
    text = printed(marked)
    assert "as is: 0.91 [0.84, 0.96] over 114 facts (loss 0.09, entropy 0.47), not judged" in text
    assert "Somebody who has only this model" in text


def test_the_page_has_a_table_and_the_sentence(marked) -> None:
    page = render_html(marked)
    assert "Which rows were forgotten?" in page and "0.91 [0.84, 0.96]" in page and "0.53 [0.50, 0.61]" in page
    assert "less likely than holdout ones" in page


def test_a_failure_by_it_alone_is_the_summary(marked) -> None:
    rows = [row("npo-kl", 0.91, 0.84, 0.96, status="failed", threshold=0.65, reason="told.")]
    reasons = ["As it stands: told."]
    passed = [{**each, "status": "passed", "reason": "", "more_needed": None} for each in marked["recovered"]]
    failed = {
        **marked,
        "forgotten_rows": rows,
        "recovered": passed,
        "verdict": {"status": "failed", "candidate": "npo-kl", "reasons": reasons},
        "candidates": [{"name": "npo-kl", "status": "failed", "reasons": reasons}],
    }
    results = Results(failed)
    assert summarize(results).startswith(
        "npo-kl gives away which rows were forgotten: forgotten answers are less likely"
    )
    assert results.forget_status("npo-kl", "identity") == "failed"
    assert "allowed 0.65" in printed(failed)


def test_reports_without_it_say_nothing_of_it(small_report) -> None:
    assert "forgotten_rows" not in small_report
    assert "Which rows were forgotten" not in render_html(small_report)
    assert "Which rows were forgotten" not in printed(small_report)
    assert forgotten_rows_sentence(Results(small_report), "npo-kl") == ""
