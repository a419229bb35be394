"""The page: its numbers, its safety, its structure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hf_unlearn.reporting.glossary import words_of
from hf_unlearn.reporting.html import about, flat_pairs, render_html, write_html
from hf_unlearn.reporting.results import Results
from hf_unlearn.reporting.sentences import warning

METRICS = ("extraction_strength", "probability", "mc_accuracy")
VOID = {"meta", "br", "link", "img", "input", "hr"}
NASTY = "<script>alert(1)</script> & \"q\" 'a' {{ 7*7 }} </title></svg>"


class Page(HTMLParser):
    """Tables with their captions, headings, ids, tags and attributes; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.headings: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._text = ""
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th", "caption", "h1", "h2"):
            self._text = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        text = " ".join(self._text.split())
        if tag in ("td", "th"):
            self._rows[-1].append(text)
        if tag == "caption":
            self.tables[text] = self._rows
        if tag in ("h1", "h2"):
            self.headings.append(text)

    def handle_data(self, data: str) -> None:
        # A gap, as every cell keeps its parts apart by layout.
        self._text += f" {data}"


def table(page: Page, start: str) -> list[list[str]]:
    """The rows of the table whose caption starts so."""
    return next(rows for caption, rows in page.tables.items() if caption.startswith(start))


def test_page_is_whole_and_has_all_sections(page_text: str) -> None:
    page = Page(page_text)
    assert page.headings == [
        "quickstart",
        "Reasons",
        "At a glance",
        "Forget score before and after",
        "Controls",
        "Recovered share",
        "What was kept",
        "All scores",
        "Attacks",
        "Not tested",
        "Notes",
        "Words",
        "How it was measured",
    ]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    labels = {value for name, value in page.attributes if name == "aria-labelledby"}
    assert labels <= set(ids)
    assert page_text.count("<svg") == page_text.count('<svg role="img"') == 4
    assert page_text.count("<table") == page_text.count("<caption")


def test_page_loads_nothing_and_runs_nothing(page_text: str) -> None:
    page = Page(page_text)
    assert not page.tags & {"script", "link", "iframe", "img", "object", "embed", "base", "form", "foreignobject"}
    for name, value in page.attributes:
        assert name != "src" and not name.startswith("on")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    assert not re.search(r"https?://|@import|url\((?!#)", page_text)
    assert "default-src 'none'" in page_text


def test_every_score_is_in_its_table(page_text: str, sample_report: dict[str, Any]) -> None:
    page = Page(page_text)
    titles = {
        "probability": "Answer probability with",
        "extraction_strength": "Extraction strength with",
        "mc_accuracy": "Multiple-choice accuracy with",
    }
    for metric, title in titles.items():
        rows = table(page, title)
        columns = ["identity" if name == "as is" else name for name in rows[0]]
        found = {(row[0], row[1], columns[i]): row[i] for row in rows[1:] for i in range(3, len(row))}
        wanted = [row for row in sample_report["scores"] if row["metric"] == metric]
        assert len([text for text in found.values() if text != "–"]) == len(wanted)
        for row in wanted:
            low, high = row["ci95"]
            cell = found[row["split"], row["model"].replace("_", "-"), row["transform"]]
            assert cell == f"{row['value']:.3f} {low:.3f} to {high:.3f}"


def test_recovered_shares_and_utility_are_in_their_tables(page_text: str, sample_report: dict[str, Any]) -> None:
    page = Page(page_text)
    marks = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
    titles = {"extraction strength": 2, "answer probability": 3, "multiple-choice accuracy": 4}
    names = dict(zip(METRICS, titles, strict=True))
    for model in ("npo-kl", "bin-hidden"):
        shown = table(page, f"Recovered share of {model},")
        assert shown[0] == ["Condition", "At most", *titles]
        lines = {"identity" if row[0] == "as is" else row[0]: row for row in shown[1:]}
        for row in (row for row in sample_report["recovered"] if row["model"] == model):
            low, high = (f"{end:.3f}".replace("-0.000", "0.000") for end in row["ci95"])
            share = f"{row['recovered_share']:.3f}".replace("-0.000", "0.000")
            cell = lines[row["transform"]][titles[names[row["metric"]]]]
            start = (
                f"{share} {marks[row['status']]} {row['status']} {low} to {high} ratio {row['retention_ratio']:.3f}"
            )
            assert cell.startswith(f"{start}, 160 facts")
            assert (f"{row['more_needed']} more facts" in cell) == (row["more_needed"] is not None)
            assert lines[row["transform"]][1] == f"{row['threshold']:.2f}"
        shown = table(page, f"Utility of {model} beside")
        assert shown[0] == ["Condition", "retain answer probability", "KL to target", "fluency"]
        lines = {"identity" if row[0] == "as is" else row[0]: row for row in shown[1:]}
        for row in (row for row in sample_report["utility"] if row["model"] == model):
            column = {"retain_score": 1, "generic_kl": 2, "fluency": 3}[row["kind"]]
            number = row["value"] if row["ratio"] is None else row["ratio"]
            cell = lines[row["transform"]][column]
            assert cell.startswith(f"{number:.3f} {marks[row['status']]} {row['status']}")
            assert cell.endswith(f"{row['threshold']:.2f}")
            assert row["target_value"] is None or f"{row['value']:.3f} of {row['target_value']:.3f}" in cell


def test_glance_controls_and_attacks(page_text: str, sample_report: dict[str, Any]) -> None:
    page = Page(page_text)
    rows = table(page, "Forget and retain answer probability")
    assert rows[0] == ["Model", "Verdict", "Set", "as is", *sample_report["gate"]["formats"], "rtt"]
    value = next(
        row["value"]
        for row in sample_report["scores"]
        if (row["model"], row["transform"], row["split"], row["metric"])
        == ("bin-hidden", "bnb-nf4", "forget", "probability")
    )
    hidden = next(row for row in rows if row[0] == "bin-hidden control")
    assert hidden[6] == f"{value:.3f} ✗ failed"
    assert hidden[1] == "✗ failed as it must"
    controls = table(page, "Controls and")
    assert controls[1][:4] == ["bin-hidden", "failed caught by bnb-nf4", "✗ failed", "yes"]
    assert controls[1][4].startswith("what is left in it is found in bnb-nf4 (recovered share 1.00 by")
    assert controls[1][5] == "bnb-nf4, rtt, bnb-fp4"
    assert controls[3][:4] == ["never-knew-2", "passed", "? inconclusive", "no"]
    assert "budget for each model: rates 0.0001, 0.0003; epochs 6; fine tuning full." in page_text
    attack = table(page, "rtt: forget score")
    assert attack[0] == ["Model", "Fold", "answer probability"]
    assert attack[1:3] == [
        ["target", "0", "0.910 rate 0.0003, epoch 6"],
        ["target", "1", "0.920 rate 0.0003, epoch 5"],
    ]
    assert len(attack) == 1 + 2 * len(sample_report["attacks"])
    thresholds = dict(table(page, "Thresholds"))
    assert (thresholds["least utility"], thresholds["most recovered share, after attacks"]) == ("0.9", "0.2")
    assert thresholds["metrics"] == "extraction strength, probability, multiple-choice accuracy"
    assert dict(table(page, "Environment"))["hardware, cores"] == "2"
    for item in sample_report["not_tested"]:
        assert f"<li>{item}</li>" in page_text


def test_a_page_warns_only_where_a_control_is_not_as_it_must(small_report: dict[str, Any], page_text: str) -> None:
    """The sample has a never-knew model that is not cleared."""
    assert "Do not rely on this verdict" in page_text
    assert 'href="#controls"' in page_text
    assert warning(Results(small_report)) == ""


def test_the_title_says_what_the_page_is_about(small_report: dict[str, Any]) -> None:
    report = small_report | {"removed": "birth years <of> people"}
    results = Results(report)
    shown = dict(about(results))
    forget = report["data"]["forget"]
    assert shown["Model"] == "small Llama, trained here"
    assert shown["To be forgotten"] == "birth years <of> people"
    assert shown["Facts"] == f"{forget['facts']:,} in {forget['rows']:,} rows"
    assert shown["Method"].startswith("npo-kl") and shown["Date"] == "1 March 2026"
    page_text = render_html(report)
    assert page_text.index("birth years &lt;of&gt; people") < page_text.index('class="banner')
    assert about(Results({})) == []


def test_no_id_of_a_key_or_metric_is_left_in_the_page(page_text: str, sample_report: dict[str, Any]) -> None:
    """Names that users type (formats, attacks) stay; keys of the report and metrics are words."""
    shown = re.sub(r"<[^>]*>|<style>.*?</style>", " ", page_text, flags=re.DOTALL)
    ids = {
        *METRICS,
        *sample_report["gate"],
        "never_knew",
        "max_recovered_share_formats",
        "learning_rate",
        "mc_accuracy",
    }
    assert [name for name in ids if "_" in name and re.search(rf"\b{name}\b", shown)] == []


def test_words_of_the_page_are_those_of_its_report(small_report: dict[str, Any]) -> None:
    words = dict(words_of(Results(small_report)))
    assert "recovered share" in words and "repair" not in words
    assert words["rtt"].endswith(".") and any("bnb-nf4" in word for word in words)


def test_everything_from_the_report_is_escaped(small_report: dict[str, Any]) -> None:
    text = json.dumps(small_report).replace("npo-kl", json.dumps(NASTY)[1:-1])
    report = json.loads(text)
    report |= {"name": NASTY, "notes": [NASTY], "not_tested": [NASTY], "environment": {NASTY: {NASTY: [NASTY]}}}
    report["verdict"]["reasons"] = [NASTY]
    report["gate"][NASTY] = NASTY
    report["created"] = report["digest"] = NASTY
    for row in report["utility"]:
        row |= {"kind": NASTY, "metric": NASTY, "status": NASTY}
    report["attacks"][0] |= {"budget": {NASTY: NASTY}, "best": [{NASTY: NASTY}]}
    page_text = render_html(report)
    page = Page(page_text)
    assert "script" not in page.tags
    assert page.headings[0] == " ".join(NASTY.split())
    assert "49" not in page.headings[0]
    assert page_text.count("<svg") == page_text.count("</svg>")


def test_same_report_same_bytes_in_another_process(small_report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(small_report), encoding="utf-8")
    code = (
        "import json, sys; from hf_unlearn.reporting.html import write_html; "
        "write_html(json.load(open(sys.argv[1], encoding='utf-8')), sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "report.json"), str(tmp_path / "other.html")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "12345"}, timeout=120)
    path = write_html(small_report, tmp_path / "new" / "report.html")
    assert path.read_bytes() == (tmp_path / "other.html").read_bytes()


def test_missing_parts_are_left_out(audit_report: dict[str, Any]) -> None:
    text = render_html(audit_report)
    page = Page(text)
    assert "Controls" not in page.headings and "Attacks" not in page.headings
    assert "Recovered share" in page.headings
    assert "never-knew" not in text
    assert "Undefined" not in text and "None" not in text and "nan" not in text
    assert table(page, "Answer probability with")[1][3] == "0.947"


def test_pages_of_nearly_nothing() -> None:
    assert Page(render_html({})).headings == ["unnamed run"]
    report = {"name": "x", "verdict": {"status": "passed", "candidate": "m"}, "attacks": [{"name": "rtt"}]}
    assert "m forgot what it had to" in render_html(report)


def test_nested_settings_become_pairs() -> None:
    nested = {"a": {"b": 1e-05, "c": [1, 2]}, "d": None, "e": True, "f": [{"x": 1}], "g": []}
    assert flat_pairs(nested) == [
        ("a.b", "1e-05"),
        ("a.c", "1, 2"),
        ("d", "–"),
        ("e", "yes"),
        ("f", '[{"x": 1}]'),
        ("g", "none"),
    ]
