"""``check`` tells why a model did not pass as ``run`` does: a line for each kind of reason, not for each number."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hf_unlearn.cli.main import main
from hf_unlearn.reporting.results import Results
from hf_unlearn.reporting.sentences import MAX_REASONS, first_reasons, verdict_reasons
from hf_unlearn.reporting.terminal import print_results
from hf_unlearn.verification.report_file import load_report


def bullets(text: str) -> list[str]:
    """Lines that begin with a dash, without those that only tell what was survived."""
    found = [line.strip()[2:] for line in text.splitlines() if line.startswith("  - ")]
    outcome = re.compile(r"(Survived|Failed|Undecided|Run, not judged)|\d+ conditions")
    return [line for line in found if not outcome.match(line)]


def printed(report: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=500, color_system=None)
    print_results(report, console)
    return console.file.getvalue()


@pytest.fixture
def many(exported, publishing, reporting, tmp_path: Path) -> Path:
    """A folder whose report has reasons by number, and eight that are about no number."""
    report = reporting(exported.files, hidden=True)
    for number in range(8):
        report["verdict"]["reasons"].append(f"{number} is missing.")
    return publishing(exported, tmp_path, report).main


def test_check_says_what_a_run_says(failed, capsys) -> None:
    assert main(["check", str(failed.main)]) == 1
    said = bullets(capsys.readouterr().out)
    assert said and said == bullets(printed(failed.report))
    assert not {*said} & {*failed.report["verdict"]["reasons"]}, "sentences about one number each"
    assert said[0].startswith("In bnb-nf4, forgotten knowledge is there: recovered share by ")


def test_no_more_than_a_screen_can_take(many: Path, capsys) -> None:
    report = load_report(many / "unlearning_report.json")
    assert main(["check", str(many)]) == 1
    said = bullets(capsys.readouterr().out)
    rest = len(verdict_reasons(Results(report))) - MAX_REASONS
    assert len(said) == MAX_REASONS + 1 and said[-1] == f"{rest} more reasons in the report"
    assert said == bullets(printed(report)) == first_reasons(verdict_reasons(Results(report)))


def test_of_integrity_alone_nothing_else_is_said(failed, capsys) -> None:
    assert main(["check", str(failed.main), "--integrity-only"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("every byte is what was verified; verdict: failed")
    assert len(told) == 2 and told[1].startswith("report ")


def test_a_pass_is_told_in_one_line(passed, capsys) -> None:
    assert main(["check", str(passed.main)]) == 0
    assert bullets(capsys.readouterr().out) == [
        "Under all 3 conditions the forgotten facts stay forgotten by probability, multiple-choice accuracy, and the "
        "model keeps its use."
    ]
