"""The table in the terminal: its numbers, its width, its plain form."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from hf_unlearn.reporting.terminal import print_results
from hf_unlearn.reporting.words import spelled

NUMBER = re.compile(r"(\d\.\d{2,3}|–)([✓✗?]?)")


def printed(report: dict[str, Any], width: int = 100, **options: Any) -> str:
    """What a pipe of this width gets."""
    file = io.StringIO()
    print_results(report, Console(file=file, width=width, highlight=False), **options)
    return file.getvalue()


def cells(text: str) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Model and set to the numbers and marks of its row."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    model = ""
    for line in text.split("Verdict:")[0].splitlines()[1:]:
        row = re.match(r"(.{1,24}?)\s+(forget|retain)\s", line)
        if row:
            model = row.group(1).strip() if row.group(2) == "forget" else model
            found.setdefault((model, row.group(2)), []).extend(NUMBER.findall(line[row.end() :]))
    return found


@pytest.mark.parametrize("width", [60, 84, 100, 160])
def test_numbers_and_marks_are_those_of_the_report(sample_report: dict[str, Any], width: int) -> None:
    transforms = ["identity", *sample_report["gate"]["formats"], "rtt"]
    value = {
        (row["model"], row["split"], row["transform"]): row["value"]
        for row in sample_report["scores"]
        if row["metric"] == "probability"
    }
    rank = {"passed": 0, "inconclusive": 1, "failed": 2}
    forget: dict[tuple[str, str], str] = {}
    for row in sample_report["recovered"]:
        key = row["model"], row["transform"]
        forget[key] = max(forget.get(key, "passed"), row["status"], key=rank.__getitem__)
    retain: dict[tuple[str, str], str] = {}
    for row in sample_report["utility"]:
        key = row["model"], row["transform"]
        retain[key] = max(retain.get(key, "passed"), row["status"], key=rank.__getitem__)
    marks = {"passed": "✓", "inconclusive": "?", "failed": "✗", None: ""}
    table = cells(printed(sample_report, width))
    assert len(table) == 16
    for model in ("target", "never_knew", "npo-kl", "ga", "bin-hidden", "never-knew-2"):
        for split, status in (("forget", forget), ("retain", retain)):
            want = [
                (
                    f"{value[model, split, name]:.{2 if width == 84 else 3}f}"
                    if (model, split, name) in value
                    else "–",
                    marks[status.get((model, name))],
                )
                for name in transforms
            ]
            assert table[model.replace("_", "-"), split] == want


@pytest.mark.parametrize("width", [84, 100, 160])
def test_one_table_that_fits(sample_report: dict[str, Any], width: int) -> None:
    text = printed(sample_report, width)
    assert sum("verdict" in line.split() for line in text.split("Verdict:")[0].splitlines()) == 1
    assert "continued" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_narrow_terminal_gets_more_tables(sample_report: dict[str, Any]) -> None:
    text = printed(sample_report, 60)
    assert text.count("... continued") >= 1
    assert max(map(len, text.splitlines())) <= 60


def test_a_pipe_gets_plain_text(sample_report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_results(sample_report)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "continued" not in text


def test_a_terminal_gets_colour(sample_report: dict[str, Any]) -> None:
    file = io.StringIO()
    print_results(sample_report, Console(file=file, width=100, force_terminal=True, color_system="standard"))
    assert "\x1b[1;31m0.9" in file.getvalue()


def test_an_ascii_terminal_gets_ascii(sample_report: dict[str, Any]) -> None:
    sample_report["verdict"]["reasons"] = ["größer als 0.20"]
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as file:
        print_results(sample_report, Console(file=file, width=120))
        file.flush()
        text = raw.getvalue().decode("ascii")
    assert "gr??er als 0.20" in text
    assert re.search(r"0\.9\d\dx", text)


def test_verdict_reasons_controls_and_place(sample_report: dict[str, Any]) -> None:
    text = printed(sample_report, 120, report_path="out/verify/unlearning_report.json")
    assert "Verdict: FAILED for npo-kl" in text
    for reason in sample_report["verdict"]["reasons"]:
        assert f"- {spelled(reason)}" in text
    assert "✗ ga failed: identity: retain probability is 0.428 of the target's (and 1 more)" in text
    assert "✓ bin-hidden failed, as it must: what is left in it is found in bnb-nf4 (recovered share" in text
    assert "✗ never-knew-2 inconclusive, but must pass: the numbers do not clear" in text
    assert "! Do not rely on this verdict" in text and "never-knew-2 did not come out as it must" in " ".join(
        text.split()
    )
    assert "Not tested: gptq-int4-g128, awq-int4-g128" in text
    assert text.rstrip().endswith("Report: out/verify/unlearning_report.json")


def test_many_reasons_are_counted(sample_report: dict[str, Any]) -> None:
    sample_report["verdict"]["reasons"] = [f"reason number {i}" for i in range(9)]
    text = printed(sample_report)
    assert "reason number 5" in text
    assert "reason number 6" not in text
    assert "3 more reasons in the report" in text


def test_no_line_below_the_table_ends_in_spaces(sample_report: dict[str, Any]) -> None:
    below = printed(sample_report, 80).split("Verdict:")[1]
    assert not [line for line in below.splitlines() if line != line.rstrip()]


def test_a_candidate_that_is_a_control_has_one_row(sample_report: dict[str, Any]) -> None:
    sample_report["candidates"] = [row for row in sample_report["candidates"] if row["name"] != "npo-kl"]
    sample_report["controls"].append(
        {"name": "npo-kl", "expected": "failed", "status": "failed", "caught_by": ["rtt"], "required_by": ["rtt"]}
        | {"ok": True}
    )
    text = printed(sample_report)
    head = text.split("Verdict:")[0].splitlines()
    first = next(i for i, line in enumerate(head) if line.startswith("npo-kl "))
    assert sum(line.startswith("npo-kl ") for line in head) == 1
    assert head[first + 1].startswith("release") and head[first + 1].rstrip().endswith("as it must")
    assert head[first + 2].strip() == "and control"
    assert "✓ npo-kl failed, as it must: what is left in it is found after rtt" in text


def test_markup_and_control_characters_are_shown_not_obeyed(small_report: dict[str, Any]) -> None:
    small_report["name"] = "[red]x[/red]"
    small_report["verdict"]["reasons"] = ["\x1b]0;owned\x07\x1b[31mred [bold]text[/bold]\x9b31m"]
    text = printed(small_report)
    assert "[red]x[/red]" in text
    assert "red [bold]text[/bold]" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_missing_parts_are_left_out(audit_report: dict[str, Any]) -> None:
    text = printed(audit_report)
    assert "never-knew" not in text
    assert "Controls" not in text
    assert ("target", "retain") in cells(text)
    assert "Verdict: UNKNOWN" in printed({})


@pytest.mark.parametrize(
    ("status", "causes", "words"),
    [
        ("failed", ["knowledge"], "Knowledge is left or comes back"),
        ("failed", ["over-forgetting"], "Right answers are avoided"),
        ("failed", ["utility"], "Use is lost: a third of the learning rate"),
        ("inconclusive", [], "Undecided is settled by more facts"),
        ("passed", [], ""),
    ],
)
def test_what_did_not_pass_is_told_with_what_to_try(
    sample_report: dict[str, Any], status: str, causes: list[str], words: str
) -> None:
    outcome = {"transform": "identity", "kind": "format", "status": status, "causes": causes}
    verdict = sample_report["verdict"] | {
        "status": status,
        "outcomes": [outcome | {"worst_share": None, "budget": {}}],
    }
    controls = [control | {"ok": True} for control in sample_report["controls"]]
    text = " ".join(printed(sample_report | {"verdict": verdict, "controls": controls}, width=200).split())
    assert text.count("To try:") == bool(words) and (f"To try: {words}" in text or not words)
    wrong = [control | {"ok": False} for control in controls]
    assert "To try:" not in printed(sample_report | {"verdict": verdict, "controls": wrong})
