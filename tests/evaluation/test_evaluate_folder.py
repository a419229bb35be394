from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import ScoredRow, read_records, write_records
from hf_unlearn.evaluation.run import EvalSpec, evaluate_folder, fact_scores

SPEC = EvalSpec(
    metrics=("probability", "extraction_strength", "exact_match", "rouge_l", "mc_accuracy"),
    max_new_tokens=4,
    fluency_tokens=6,
)


@pytest.fixture(scope="module")
def generic(make_row):
    return [make_row("g0", "", "A long river ran by the old town."), make_row("g1", "", "The year of the town")]


@pytest.fixture(scope="module")
def evaluated(folder, sets, generic, make_model, save, tmp_path_factory):
    reference = save(make_model(seed=9), tmp_path_factory.mktemp("reference"))
    out = tmp_path_factory.mktemp("out") / "new"
    evaluate_folder(folder, sets, generic, reference, TextFormat(), SPEC, out)
    return out


def test_writes_a_record_per_row_and_nothing_else(evaluated, sets):
    assert sorted(file.name for file in evaluated.iterdir()) == ["records.jsonl", "summary.json"]
    records = read_records(evaluated / "records.jsonl")
    ids = [row.id for members in sets.values() for row in members]
    assert [record.id for record in records] == [*ids, "g0", "g1"]
    for record in records:
        if record.set == "generic":
            assert set(record.values) == {"fluency", "kl_to_target", "nll"}
            assert record.values["kl_to_target"] > 0
            continue
        plain_text = record.id == "r2"
        assert (record.generated is None) == plain_text
        names = {"probability", "extraction_strength", "exact_match"}
        names |= set() if plain_text else {"rouge_l"}
        names |= {"mc_accuracy"} if record.right_choice >= 0 else set()
        assert set(record.values) == names
        assert record.values["probability"] == pytest.approx(math.exp(sum(record.logps) / len(record.logps)))


def test_summary_is_the_mean_over_facts(evaluated):
    records = {record.id: record for record in read_records(evaluated / "records.jsonl")}
    summary = json.loads((evaluated / "summary.json").read_text())
    f0, f1, f2 = (records[name].values["probability"] for name in ("f0", "f1", "f2"))
    assert summary["forget"]["probability"] == {"mean": pytest.approx(((f0 + f1) / 2 + f2) / 2), "n": 2, "ci95": None}
    assert summary["retain"]["mc_accuracy"]["n"] == 1
    assert set(summary) == {"forget", "retain", "generic"}


def test_same_folder_gives_the_same_files(evaluated, folder, sets, generic, tmp_path):
    evaluate_folder(folder, sets, generic, folder, TextFormat(), SPEC, tmp_path / "a")
    evaluate_folder(folder, sets, generic, folder, TextFormat(), SPEC, tmp_path / "b")
    for name in ("records.jsonl", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["generic"]["kl_to_target"] == {"mean": 0.0, "n": 2, "ci95": None}


@pytest.mark.parametrize("limit, generated", [(0, []), (1, ["f0", "f1", "r0"]), (2, ["f0", "f1", "f2", "r0", "r1"])])
def test_generation_is_limited_by_facts_of_each_set(folder, sets, tmp_path, limit, generated):
    spec = EvalSpec(metrics=("rouge_l", "exact_match"), max_new_tokens=2, generate_limit=limit)
    evaluate_folder(folder, sets, (), None, TextFormat(), spec, tmp_path)
    records = read_records(tmp_path / "records.jsonl")
    assert [record.id for record in records if record.generated is not None] == generated
    assert all("exact_match" in record.values for record in records), "teacher forcing tells it without generation"


def test_no_generation_where_no_metric_needs_it(folder, sets, tmp_path):
    evaluate_folder(folder, sets, (), None, TextFormat(), EvalSpec(metrics=("probability",)), tmp_path)
    assert all(record.generated is None for record in read_records(tmp_path / "records.jsonl"))


def test_metric_names_are_checked_before_anything_is_loaded(sets, tmp_path):
    spec = EvalSpec(metrics=("probability", "rogue_l"))
    with pytest.raises(RequestError, match="did you mean 'rouge_l'"):
        evaluate_folder(tmp_path / "absent", sets, (), None, TextFormat(), spec, tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"max_new_tokens": 0}, {"batch_tokens": 0}, {"fluency_tokens": 0}, {"generate_limit": -1}, {"metrics": ()}],
)
def test_spec_refuses_senseless_values(fields):
    with pytest.raises(RequestError, match=rf"evaluate\.{next(iter(fields))}"):
        EvalSpec(**fields)


def test_fact_scores_average_rows_that_have_the_metric():
    rows = [
        ScoredRow("a1", "a", "A", "forget", values={"x": 0.0, "y": 3.0}),
        ScoredRow("a2", "a", "A", "forget", values={"x": 1.0}),
        ScoredRow("b1", "b", "B", "forget", values={"x": 0.25}),
        ScoredRow("a1", "a", "A", "retain", values={"x": 7.0}),
    ]
    scores = fact_scores(rows)
    assert set(scores) == {("forget", "x"), ("forget", "y"), ("retain", "x")}
    assert scores["forget", "x"].values == {"a": 0.5, "b": 0.25}
    assert scores["forget", "x"].groups == {"a": "A", "b": "B"}
    assert scores["forget", "y"].values == {"a": 3.0} and scores["forget", "y"].groups == {"a": "A"}
    assert scores["forget", "x"].mean == 0.375


def test_records_survive_writing(tmp_path):
    row = ScoredRow(
        "a", "f", "g", "forget", (-0.1, -2.5), (True, False), (-1.0, -2.0), (1, 2), 1, "é\u2028x", None, {"m": 0.1}
    )
    write_records(tmp_path / "records.jsonl", [row, row])
    assert read_records(tmp_path / "records.jsonl") == [row, row]


def test_reading_scores_does_not_load_torch():
    code = "import sys, hf_unlearn.evaluation.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
