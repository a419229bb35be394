"""Tables of results in the pages, made from reports."""

from __future__ import annotations

import importlib.util
import json

import pytest

REPORT = {
    "name": "tiny",
    "created": "2026-01-02T03:04:05+00:00",
    "verdict": {"status": "failed", "candidate": "npo", "reasons": ["bnb-nf4: it is still there"]},
    "data": {"forget": {"facts": 40}, "retain": {"facts": 20}},
    "gate": {"metrics": ["probability"], "formats": ["bnb-nf4"], "attacks": ["rtt"]},
    "environment": {"device": "cpu", "versions": {"torch": "2.0"}},
    "candidates": [],
    "controls": [
        {"name": "npo", "expected": "failed", "status": "failed", "caught_by": ["bnb-nf4"], "ok": True},
        {"name": "other", "expected": "passed", "status": "failed", "caught_by": [], "ok": False},
    ],
    "recovered": [
        {"model": "npo", "transform": "bnb-nf4", "metric": "probability", "recovered_share": 0.9, "status": "failed"}
    ],
    "scores": [
        {"model": model, "transform": transform, "split": split, "metric": "probability", "value": value}
        for model, transform, split, value in (
            ("target", "identity", "forget", 0.934),
            ("target", "identity", "retain", 0.941),
            ("npo", "identity", "forget", 0.031),
            ("npo", "identity", "retain", 0.9),
            ("npo", "bnb-nf4", "forget", 0.912),
            ("npo", "rtt", "forget", 0.5),
            ("other", "identity", "forget", 0.01),
        )
    ],
}


@pytest.fixture(scope="module")
def script(root):
    """``benchmarks/results_table.py`` as a module."""
    spec = importlib.util.spec_from_file_location("results_table", root / "benchmarks" / "results_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_models_down_and_transforms_across(script):
    rows = [line for line in script.results_table(REPORT).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == ["model", "---", "target", "npo", "other"]
    assert cells[0][2:] == ["bnb-nf4", "rtt", "verdict"]
    assert cells[2][1:] == ["0.93 / 0.94", "– / –", "– / –", "reference"]
    assert cells[3][1:] == ["0.03 / 0.90", "**0.91** / –", "0.50 / –", "failed, as it must"]
    assert cells[4][1] == "0.01 / –" and cells[4][-1] == "failed, **not as it must**"


def test_caption_says_what_where_and_when(script):
    caption = script.results_table(REPORT).splitlines()[0]
    for part in ("`tiny`", "answer probability", "40 / 20 facts", "2026-01-02", "cpu", "torch 2.0"):
        assert part in caption


def test_printing_a_report(script, tmp_path, capsys):
    path = tmp_path / "unlearning_report.json"
    path.write_text(json.dumps(REPORT))
    assert script.main([str(path)]) == 0
    assert "| npo |" in capsys.readouterr().out


def test_only_blocks_with_a_report_are_filled(script, tmp_path, monkeypatch):
    page = "a\n<!-- results:one -->\nstale text\n<!-- /results -->\nb\n<!-- results:two -->\nkept\n<!-- /results -->\n"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "unlearning_report.json").write_text(json.dumps(REPORT))
    monkeypatch.setattr(script, "load_report", lambda path: json.loads(path.read_text()))
    text = script.filled(page, tmp_path)
    assert text.startswith("a\n<!-- results:one -->\n`tiny`") and "stale text" not in text
    assert text.endswith("b\n<!-- results:two -->\nkept\n<!-- /results -->\n")
    assert script.filled(text, tmp_path) == text


def test_the_pages_show_the_committed_reports(script, root, capsys):
    assert script.main(["--check"]) == 0, capsys.readouterr().err
    shown = "".join(page.read_text(encoding="utf-8") for page in script.PAGES)
    for report in (root / "benchmarks" / "results").glob("*/unlearning_report.json"):
        assert f"<!-- results:{report.parent.name} -->" in shown, report.parent.name
