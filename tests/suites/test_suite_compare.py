"""Paired differences of two evaluated folders, and pairs that are none."""

from __future__ import annotations

import json
import shutil

import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.data.example import Example
from hf_unlearn.evaluation.metrics import SCORE_VERSION
from hf_unlearn.evaluation.records import read_records, write_records
from hf_unlearn.evaluation.suites.compare import compare_folders
from hf_unlearn.evaluation.suites.rows import SuiteRows
from hf_unlearn.evaluation.suites.run import record_version


@pytest.fixture(scope="session")
def other(other_model, local_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "other"
    assert main(["evaluate", str(other_model), "--suite", "tofu", "--output-dir", str(out), *local_data["tofu"]]) == 0
    return out


@pytest.fixture
def changed(other, tmp_path):
    """A copy of the second folder with other records or another result."""

    def change(records=None, **result):
        folder = tmp_path / "changed"
        shutil.copytree(other, folder)
        if records is not None:
            write_records(folder / "records.jsonl", records(read_records(folder / "records.jsonl")))
        file = folder / "suite.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **result}))
        return folder

    return change


def test_differences_are_those_of_the_rows(evaluated, other):
    comparison = compare_folders(evaluated, other)
    found = {(item.set, item.metric): item for item in comparison.differences}
    item = found["forget", "probability"]
    pairs = [
        (one.values["probability"], two.values["probability"])
        for one, two in zip(
            read_records(evaluated / "records.jsonl"), read_records(other / "records.jsonl"), strict=True
        )
        if one.set == "forget"
    ]
    assert item.difference == pytest.approx(sum(two - one for one, two in pairs) / len(pairs))
    assert item.ci95[0] <= item.difference <= item.ci95[1]
    assert item.n == 12
    utility = found["", "model_utility"]
    assert utility.difference == pytest.approx(utility.second - utility.first)


def test_a_model_with_itself_differs_nowhere(evaluated):
    comparison = compare_folders(evaluated, evaluated)
    assert {item.difference for item in comparison.differences} == {0.0}
    assert not any(item.clear for item in comparison.differences)
    assert "same model files" in comparison.notes[0]


def test_table_and_json(evaluated, other, capsys):
    assert main(["compare", str(evaluated), str(other)]) == 0
    table = capsys.readouterr().out
    assert main(["compare", str(evaluated), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["suite"] == "tofu"
    probability = next(
        item for item in found["differences"] if (item["set"], item["metric"]) == ("forget", "probability")
    )
    assert f"{probability['first']:.3f}" in table
    assert f"{probability['difference']:.4f}" in table


def test_rows_that_do_not_line_up_are_refused_and_the_first_is_named(evaluated, changed, refused):
    def swapped(records):
        records[2], records[3] = records[3], records[2]
        return records

    assert "'forget-00003' is in the place of 'forget-00002'" in refused("compare", evaluated, changed(swapped))


def test_a_missing_row_is_named(evaluated, changed, refused):
    folder = changed(lambda records: [row for row in records if row.id != "retain-00011"])
    assert "'retain-00011'" in refused("compare", evaluated, folder)


def test_another_answer_is_another_row(evaluated, changed, refused):
    from dataclasses import replace

    folder = changed(lambda records: [replace(records[0], answer=" else"), *records[1:]])
    assert "answer of 'forget-00000'" in refused("compare", evaluated, folder)


def test_other_suites_settings_and_versions_are_refused(evaluated, changed, refused, other):
    result = json.loads((other / "suite.json").read_text())
    suite = result["suite"]
    assert "with the suite tofu" in refused("compare", evaluated, changed(suite={**suite, "name": "muse"}))


def test_other_score_versions_are_refused(evaluated, changed, refused, other):
    versions = json.loads((other / "suite.json").read_text())["score_versions"]
    folder = changed(score_versions={**versions, "probability": versions["probability"] + 1})
    said = refused("compare", evaluated, folder)
    assert "probability has score version" in said


def test_other_settings_are_refused_by_key(evaluated, changed, refused, other):
    result = json.loads((other / "suite.json").read_text())
    settings = result["settings"]
    settings["set"]["forget"]["max_new_tokens"] = 99
    folder = changed(suite={**result["suite"], "digest": "0" * 64}, settings=settings)
    assert "set.forget.max_new_tokens" in refused("compare", evaluated, folder)


def test_rows_asked_in_another_format_are_refused(evaluated, changed, refused, other):
    sets = json.loads((other / "suite.json").read_text())["sets"]
    sets["retain"]["format"] = "chat"
    assert "set.retain.format=plain" in refused("compare", evaluated, changed(sets=sets))


def test_a_folder_that_is_no_evaluation(evaluated, refused, tmp_path):
    assert "suite.json" in refused("compare", evaluated, tmp_path)
    assert "another version" in refused("compare", evaluated, _old(evaluated, tmp_path / "old"))


def _old(folder, target):
    shutil.copytree(folder, target)
    (target / "suite.json").write_text('{"schema_version": 0}')
    return target


@pytest.mark.parametrize(
    ("prompt", "kind", "harness_chat", "later"),
    [
        ("Who?", "plain", False, False),
        ("Who? ", "plain", False, True),
        ("<s>Who?", "plain", False, True),
        ("Who?", "chat", False, True),
        ("Who?", "plain", True, True),
    ],
)
def test_rows_that_an_earlier_version_read_otherwise_have_a_later_version(prompt, kind, harness_chat, later):
    row = Example("a", prompt, "Ada", "a", "a")
    rows = SuiteRows({"set": (row,)}, {"set": (row,)}, {"set": kind}, {})
    assert record_version(rows, harness_chat) == SCORE_VERSION + later
