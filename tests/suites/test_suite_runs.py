"""Packaged suites on a tiny model, what they write, going on after a kill, and requests that do not fit."""

from __future__ import annotations

import json
import shutil

import pytest
from suite_data import TEMPLATE, save_model

from hf_unlearn.cli.main import main
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.suites import builtin_suites, load_suite


def result_of(folder):
    return json.loads((folder / "suite.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in builtin_suites() if name not in ("general", "tofu")])
def test_every_packaged_suite_runs(name, model, local_data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", str(model), "--suite", name, "--output-dir", str(out), *local_data[name]]) == 0
    printed = capsys.readouterr().out
    result, suite = result_of(out), load_suite(name, local_data[name])
    assert not result["not_computed"]
    assert set(result["aggregates"]) == set(suite.aggregates)
    for set_name, spec in suite.scored.items():
        assert set(result["scores"][set_name]) == set(spec.metrics)
        for metric in spec.metrics:
            assert metric in printed


def test_scores_are_means_of_the_records(evaluated):
    result = result_of(evaluated)
    records = [row for row in read_records(evaluated / "records.jsonl") if row.set == "forget"]
    score = result["scores"]["forget"]["probability"]
    assert score["n"] == len(records) == 12
    assert score["mean"] == pytest.approx(sum(row.values["probability"] for row in records) / 12)
    assert score["ci95"][0] < score["mean"] < score["ci95"][1]
    summary = json.loads((evaluated / "summary.json").read_text(encoding="utf-8"))
    assert summary["forget"]["probability"]["mean"] == score["mean"]


def test_the_result_says_what_was_measured_and_how(evaluated, model):
    result = result_of(evaluated)
    assert result["model"]["name"] == str(model)
    assert result["sets"]["forget"]["format"] == "plain"
    assert result["score_versions"]["probability"] >= 1
    assert {"torch", "transformers"} <= set(result["versions"])
    assert list(result["scores"]) == ["forget", "retain", "real_authors", "world_facts", "holdout"]
    assert list(result["not_computed"]) == ["forget_quality"]
    assert "--reference" in result["not_computed"]["forget_quality"]
    assert result["aggregates"]["mia_loss"]["n"] == 24


@pytest.fixture
def again(evaluated, local_data, tmp_path):
    """A copy of the evaluated folder, and the command that made it with other options."""
    out = tmp_path / "again"
    shutil.copytree(evaluated, out)
    return lambda model, *options: [
        "evaluate", str(model), "--suite", "tofu", "--output-dir", str(out), *options, *local_data["tofu"]
    ], out  # fmt: skip


def test_a_finished_evaluation_is_printed_and_not_repeated(again, model, capsys):
    command, out = again
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(command(model)) == 0
    assert "probability_normalized" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_what_was_scored_before_a_kill_is_kept(again, model):
    command, out = again
    finished = result_of(out)
    scored = (out / "records.jsonl").stat().st_mtime_ns
    (out / "suite.json").unlink()
    assert main(command(model)) == 0
    assert (out / "records.jsonl").stat().st_mtime_ns == scored
    assert {**result_of(out), "created": finished["created"]} == finished


def test_a_folder_of_another_request_is_refused(again, model, other_model, refused):
    command, _ = again
    assert "another model" in refused(*command(other_model))
    assert "another dtype" in refused(*command(model, "--dtype", "bfloat16"))
    assert "another limit and rows" in refused(*command(model, "--limit", "3"))
    assert "another suite" in refused(*command(model), "set.forget.max_new_tokens=3")


def test_a_folder_of_something_else_is_refused(refused, model, local_data, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    said = refused("evaluate", model, "--suite", "mcq", "--output-dir", tmp_path, *local_data["mcq"])
    assert "something else" in said


def test_a_limit_scores_the_first_rows(model, local_data, tmp_path):
    out = tmp_path / "out"
    command = ["evaluate", str(model), "--suite", "mcq", "--output-dir", str(out), "--limit", "4"]
    assert main([*command, *local_data["mcq"]]) == 0
    result = result_of(out)
    assert {spec["rows"] for spec in result["sets"].values()} == {4}
    assert result["scores"]["forget"]["mc_accuracy"]["ci95"] is None


def test_a_chat_model_is_asked_with_its_template(local_data, tmp_path, capsys):
    model = save_model(tmp_path / "chat", chat_template=TEMPLATE)
    command = ["evaluate", str(model), "--suite", "mcq", "--output-dir"]
    for name, keys in (("chat", []), ("plain", ["defaults.format=plain"])):
        assert main([*command, str(tmp_path / name), "--limit", "3", *local_data["mcq"], *keys]) == 0
        assert {spec["format"] for spec in result_of(tmp_path / name)["sets"].values()} == {
            "chat" if name == "chat" else "plain"
        }
    assert "chat template" in capsys.readouterr().out
    scores = [result_of(tmp_path / name)["scores"]["forget"]["mc_probability"]["mean"] for name in ("chat", "plain")]
    assert scores[0] != scores[1]


def test_requests_that_do_not_fit(refused, model, tmp_path, local_data):
    assert "--suite" in refused("evaluate", "quickstart", "--limit", 3)
    assert "--workers" in refused("evaluate", model, "--suite", "mcq", "--workers", 1)
    assert "--limit is 0" in refused("evaluate", model, "--suite", "mcq", "--limit", 0)
    assert "config.json" in refused("evaluate", tmp_path, "--suite", "mcq")
    missing = refused("evaluate", model, "--suite", "mcq", "set.forget.path=/nowhere.jsonl", "set.retain=off",
                      "set.retain_letters=off")  # fmt: skip
    assert "/nowhere.jsonl does not exist" in missing


def test_rows_without_options_name_file_and_line(refused, model, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "mine.yaml").write_text(f"set: {{forget: {{path: {tmp_path}/rows.jsonl, metrics: [mc_accuracy]}}}}")
    said = refused("evaluate", model, "--suite", tmp_path / "mine.yaml", "--output-dir", tmp_path / "out")
    assert "rows.jsonl:1" in said
    assert "mc_accuracy" in said
    assert not (tmp_path / "out").exists()
