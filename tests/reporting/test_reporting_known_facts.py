"""Single facts that are still known, where people look: by count and salted id, once per transform."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from hf_unlearn.reporting.html import render_html
from hf_unlearn.reporting.known_facts import counts_to_show
from hf_unlearn.reporting.results import Results
from hf_unlearn.reporting.sentences import grouped_reasons, summarize
from hf_unlearn.reporting.terminal import print_results


def counted(transform: str, metric: str, known: int, **more: Any) -> dict[str, Any]:
    """A row of the report's section."""
    return {
        "model": "npo-kl",
        "transform": transform,
        "metric": metric,
        "n": 74,
        "known": known,
        "by_chance": 0.5,
        "allowed": 3,
        "anti_known": 11,
        "anti_known_by_chance": 0.25,
        "same_distribution": 0.00004,
        "status": "failed" if known > 3 else "passed",
        "facts": [f"{number:012x}" for number in range(known)],
        "reason": f"{known} of 74 facts are still known, at most 3 are allowed." if known > 3 else "",
        **more,
    }


BY_FOUR_OPTIONS = {"by_chance": 18.5, "allowed": None, "status": "reported", "reason": ""}


@pytest.fixture
def counting_report(small_report: dict[str, Any]) -> dict[str, Any]:
    """Four facts are known as the model stands, seven in NF4, none after RTT."""
    rows = [
        counted("rtt", "probability", 0),
        counted("bnb-nf4", "probability", 7),
        counted("bnb-nf4", "mc_accuracy", 20, **BY_FOUR_OPTIONS),
        counted("identity", "extraction_strength", 2),
        counted("identity", "probability", 4),
        counted("bnb-int8", "mc_accuracy", 17, **BY_FOUR_OPTIONS),
        counted("bnb-fp4", "mc_accuracy", 19, **BY_FOUR_OPTIONS),
    ]
    reasons = ["As it stands: probability: " + rows[4]["reason"], "bnb-nf4: probability: " + rows[1]["reason"]]
    verdict = {"status": "failed", "candidate": "npo-kl", "reasons": reasons}
    passed = [{**row, "status": "passed", "reason": "", "more_needed": None} for row in small_report["recovered"]]
    return {
        **small_report,
        "schema_version": "1.3",
        "known_facts": rows,
        "verdict": verdict,
        "recovered": passed,
        "candidates": [{"name": "npo-kl", "status": "failed", "reasons": reasons}],
    }


def printed(report: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_results(report, console)
    return console.file.getvalue()


def test_one_line_per_transform_by_the_worst_verdict_and_then_the_largest_count(counting_report) -> None:
    rows = counts_to_show(Results(counting_report), "npo-kl")
    assert [(row.transform, row.metric, row.known) for row in rows] == [
        ("identity", "probability", 4),
        ("bnb-nf4", "probability", 7),  # 20 by four options is more, and is not judged
        ("bnb-fp4", "mc_accuracy", 19),  # not judged, but above the 18.5 of chance; 17 in bnb-int8 is below
        ("rtt", "probability", 0),
    ]


def test_the_summary_says_how_many_and_where(counting_report) -> None:
    summary = summarize(Results(counting_report))
    assert summary.startswith("npo-kl did not forget every fact.")
    assert summary.endswith("4 of 74 facts are still known as it stands; in bnb-nf4 7 (at most 3 allowed).")


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"identity": 0, "rtt": 0}, "None of 74 facts is still known, in any of 2 forms."),
        (
            {"identity": 1, "rtt": 0},
            "1 of 74 facts is still known as it stands, and nowhere more (at most 3 allowed).",
        ),
        ({"rtt": 5}, "5 of 74 facts are still known after rtt (at most 3 allowed)."),
    ],
)
def test_other_counts_in_words(counting_report, known: dict[str, int], said: str) -> None:
    counting_report["known_facts"] = [counted(name, "probability", number) for name, number in known.items()]
    assert summarize(Results(counting_report)).endswith(said)


def test_reasons_are_said_once_for_all_transforms(counting_report) -> None:
    results = Results(counting_report)
    assert grouped_reasons(results, "npo-kl", results.reasons) == [
        "As it stands and in bnb-nf4, single facts are still known by answer probability: 4 to 7 of 74 (at most 3 "
        "allowed)."
    ]


def test_a_count_that_fails_for_being_sure_says_by_which_p_value(counting_report) -> None:
    """Eight known facts with ten allowed: all of them are known for sure, which guesses are not."""
    sure = {"allowed": 10, "status": "failed", "reason": "8 of 74 facts are still known.", "known_p": 0.0042}
    counting_report["known_facts"] = [counted("identity", "combined", 8, **sure)]
    counting_report["verdict"]["reasons"] = ["As it stands: combined: 8 of 74 facts are still known."]
    results = Results(counting_report)
    said = "more than a model that never knew shows, p 0.004"
    assert grouped_reasons(results, "npo-kl", results.reasons) == [
        f"As it stands, single facts are still known by all metrics together: 8 of 74 ({said})."
    ]
    assert summarize(results).endswith(f"8 of 74 facts are still known as it stands ({said}).")
    assert f"8 of 74 by all metrics together, {said} (by chance 0.5);" in printed(counting_report)


@pytest.mark.parametrize(("p", "said"), [(0.3, False), (0.001, True), (None, True)])
def test_anti_known_facts_are_told_where_chance_does_not_make_them(counting_report, p: float | None, said) -> None:
    counting_report["known_facts"] = [
        counted("identity", "probability", 0, **({} if p is None else {"anti_known_p": p}))
    ]
    assert ("facts are anti-known" in printed(counting_report)) == said


def test_a_failed_count_marks_the_forget_cell(counting_report) -> None:
    results = Results(counting_report)
    assert results.forget_status("npo-kl", "bnb-nf4") == "failed"
    assert results.forget_status("npo-kl", "bnb-fp4") == "passed"


def test_the_terminal_has_a_line_per_transform(counting_report) -> None:
    text = printed(counting_report)
    assert "✗ bnb-nf4: 7 of 74 by answer probability, at most 3 allowed (by chance 0.5)" in text
    assert "; anti-known 11 (by chance 0.2)" in text
    assert "bnb-fp4: 19 of 74 by multiple-choice accuracy, not judged (by chance 18.5)" in text
    assert "bnb-int8: 17" not in text
    assert "11 of 74 facts are anti-known" in text


def test_the_page_has_counts_salted_ids_and_the_p_value(counting_report) -> None:
    page = render_html(counting_report)
    section = page.split('<h2 id="facts">')[1].split("</section>")[0]
    assert section.count('<tr><th scope="row">') == 4
    line = section.split('<th scope="row">bnb-nf4</th>')[1].split("</tr>")[0]
    for cell in ('failed">7<', "of 74", ">0.5<", ">3<", ">11<", "by chance 0.2", "0.001", "000000000006"):
        assert cell in line
    assert "000000000007" not in line


def test_many_ids_are_cut(counting_report) -> None:
    counting_report["known_facts"] = [counted("identity", "probability", 30)]
    assert "00000000000b and 18 more in the report" in render_html(counting_report)


def test_an_older_report_is_shown_as_before(small_report) -> None:
    assert "known_facts" not in small_report
    text = render_html(small_report) + printed(small_report) + summarize(Results(small_report))
    assert "ingle facts" not in text and "still known" not in text and 'id="facts"' not in text
