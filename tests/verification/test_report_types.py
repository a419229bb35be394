"""The report's types, its JSON schema, and reports that were made before: all say the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest

from hf_unlearn.verification.report import Report
from hf_unlearn.verification.report_file import SCHEMA_PATH, canonical, digest_of, read_report, schema_problems
from hf_unlearn.verification.schema import report_schema, schema_text
from hf_unlearn.verification.typed_json import Maybe, Schema, Stated, from_json, schema_of, to_json

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "benchmarks" / "results").glob("*/unlearning_report.json"))
# Written by the code of its time: version 1.0, without all that came later.
OLD = Path(__file__).parent / "data" / "report-1.0.json"


def test_the_committed_schema_is_that_of_the_types() -> None:
    assert json.loads(SCHEMA_PATH.read_text(encoding="utf-8")) == report_schema()
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text(), "run  python -m hf_unlearn.verification.schema"


def test_there_are_committed_reports() -> None:
    assert {path.parent.name for path in COMMITTED} >= {"quickstart", "tofu-small"}


@pytest.mark.parametrize("path", [*COMMITTED, OLD], ids=lambda path: path.parent.name)
def test_reports_made_before_verify_and_are_written_again_byte_for_byte(path: Path) -> None:
    data = path.read_bytes()
    document, problems = read_report(data)
    assert problems == []
    assert document["digest"] == digest_of(document)
    assert canonical(document) == data
    again = Report.from_json(document).to_json()
    if path == OLD:  # it was written before the gate had this key
        assert again["gate"].pop("utility_sets") == []
    assert canonical(again) == data


def test_an_old_report_is_read_as_far_as_it_goes() -> None:
    report = Report.from_json(json.loads(OLD.read_text(encoding="utf-8")))
    assert report.verdict.judged is None and report.verdict.outcomes == ()
    assert report.explanation is None and report.formats == () and report.benchmarks is None
    low, unknown = report.recovered
    assert low.over_forgotten is None and low.marks_the_answer and not low.still_known
    assert low.joint95 is None and unknown.ci95 is None


def test_a_changed_byte_of_an_old_report_is_seen() -> None:
    data = OLD.read_bytes()
    for place in range(0, len(data), 53):
        assert read_report(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])[1], place


def test_nothing_is_guessed() -> None:
    empty = Report.from_json({})
    assert empty.gate is None and empty.verdict.status is None and empty.models.never_knew is None
    assert empty.scores == () and empty.name == "" and empty.environment == {}
    gate = json.loads(OLD.read_text(encoding="utf-8"))["gate"]
    assert Report.from_json({"gate": gate}).gate is not None
    del gate["min_fluency"]
    assert Report.from_json({"gate": gate}).gate is None, "a default is no threshold of that run"


@pytest.mark.parametrize("value", [True, "1", float("nan"), float("inf"), None, [1]])
def test_what_is_no_number_is_not_read_as_one(value: Any) -> None:
    row = {"model": "m", "transform": "identity", "split": "forget", "metric": "probability", "value": value}
    (found,) = Report.from_json({"scores": [row]}).scores
    assert found.value is None and found.n is None and found.ci95 is None
    (found,) = Report.from_json({"scores": [{**row, "value": 3, "ci95": [0, value]}]}).scores
    assert found.value == 3 and found.ci95 is None


def test_lists_of_other_things_are_read_without_them() -> None:
    report = Report.from_json({"notes": ["a", 1, None], "not_tested": "merging", "controls": [3, {"name": "c"}]})
    assert report.notes == ("a",) and report.not_tested == ("merging",)
    assert [control.name for control in report.controls] == ["c"]


def test_what_an_export_says_besides_is_kept() -> None:
    document = {"formats": [{"format": "x", "group_size": None, "calibration": None, "own": {"key": [1]}}]}
    report = Report.from_json(document)
    assert report.formats[0].more == {"own": {"key": [1]}}
    assert report.to_json()["formats"] == document["formats"]


def test_every_version_is_written_with_its_own_keys() -> None:
    document = json.loads(COMMITTED[0].read_text(encoding="utf-8"))
    later = {
        "1.0": {"formats", "pooled", "explanation", "known_facts"},
        "1.1": {"known_facts"},
        "1.2": {"known_facts"},
    }
    for version in ("1.0", "1.1", "1.2", "1.3", "1.4"):
        written = Report.from_json({**document, "schema_version": version}).to_json()
        assert document.keys() - written.keys() == later.get(version, set())
        assert ("max_known_facts" in written["gate"]) == (version in ("1.3", "1.4"))
        assert ("max_perplexity_ratio" in written["gate"]) == (version == "1.4")
        assert ("outcomes" in written["verdict"]) == (version >= "1.2")
        assert all(("joint95" in row) == (version >= "1.2") for row in written["recovered"])
        assert schema_problems({**written, "digest": "0" * 64}) == []


def test_hints_and_what_stands_beside_them_become_a_schema() -> None:
    from dataclasses import dataclass, field

    @dataclass(frozen=True)
    class Inner:
        value: Annotated[float | None, Schema("How much.", minimum=0, since="1.5")]

    @dataclass(frozen=True)
    class Outer:
        low: Annotated[int | None, Schema(key="from")]
        inner: Annotated[Inner, Schema(define="inner")]
        maybe: Maybe[str] = None
        stated: Stated[bool] = None
        more: Annotated[Mapping[str, Any], Schema(is_open=True)] = field(default_factory=dict)

    for cls in (Inner, Outer):  # their hints are looked up in the module
        globals()[cls.__name__] = cls
    assert schema_of(Outer) == {
        "type": "object",
        "required": ["from", "inner", "stated"],
        "properties": {
            "from": {"type": ["integer", "null"]},
            "inner": {"$ref": "#/$defs/inner"},
            "maybe": {"type": "string"},
            "stated": {"type": "boolean"},
        },
        "$defs": {
            "inner": {
                "type": "object",
                "additionalProperties": False,
                "required": [],
                "properties": {
                    "value": {"type": ["number", "null"], "minimum": 0, "description": "How much. Since 1.5."}
                },
            }
        },
    }
    made = Outer(1, Inner(2.0))
    assert to_json(made, "1.4") == {"from": 1, "inner": {}}
    assert to_json(made, "1.10") == to_json(made) == {"from": 1, "inner": {"value": 2.0}}
    with pytest.raises(ValueError, match="this is no Count"):

        @dataclass(frozen=True)
        class Count:
            n: int

        from_json(Count, {"n": "many"})
