"""Public benchmarks in a run: in the report, on the published folder, and refused where they cannot be run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from adopted_runs import adopted

from hf_unlearn.cli.main import main
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import ScoredRow, read_records
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.benchmarks import _values

pytest.importorskip("lm_eval")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one task on local rows."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = tmp_path / "rows.jsonl"
    questions = [
        {"question": f"Year {year}?", "choices": [str(year), "1900"], "answer": 0} for year in range(1990, 1996)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in questions))
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "tiny_choice.yaml").write_text(yaml.safe_dump(task))
    return folder


def with_benchmarks(folder: Path, text: str, own_tasks: Path, **changes: object) -> Path:
    section = {"tasks": {"tiny_choice": "own/tiny-choice"}, "include_path": str(own_tasks), **changes}
    path = folder / "benchmarks.yaml"
    path.write_text(text + yaml.safe_dump({"benchmarks": section}))
    return path


def test_benchmarks_stand_in_the_report_and_beside_the_card(finished, tiny_text, tasks, tmp_path):
    recipe = with_benchmarks(tmp_path, tiny_text, tasks)
    out = adopted(finished, tmp_path / "out", recipe)
    assert main(["run", str(recipe), "--output-dir", str(out), "--workers", "0"]) in (0, 1)
    report = json.loads((out / "verify" / "unlearning_report.json").read_text())
    found = {score["model"]: score for score in report["benchmarks"]}
    assert found.keys() == {"target", "npo-kl"}
    folders = {"target": out / "references" / "evaluate" / "target", "npo-kl": out / "evaluate"}
    for model, score in found.items():
        records = read_records(folders[model] / "benchmarks" / "harness" / "tiny_choice.jsonl")
        assert score["value"] == pytest.approx(sum(record.values["acc"] for record in records) / 6)
        assert (score["dataset"], score["task"], score["transform"]) == ("own/tiny-choice", "tiny_choice", "identity")
        assert "acc" in score["notes"] and "6 questions" in score["notes"]
    (file,) = (out / "publish" / ".eval_results").iterdir()
    (entry,) = yaml.safe_load(file.read_text())
    assert entry["dataset"]["id"] == "own/tiny-choice"
    assert entry["value"] == found["npo-kl"]["value"]
    assert not (out / "publish-bnb-nf4" / ".eval_results").exists()
    assert main(["check", str(out / "publish"), "--integrity-only"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {}}, "at least one task"),
        ({"tasks": {"tiny_choice": "not an id"}}, "the benchmark's data set on the Hub"),
        ({"shots": -1}, "shots is -1"),
        ({"metrik": "acc"}, "did you mean 'metric'"),
    ],
)
def test_a_section_that_makes_no_sense(tiny_text, tasks, tmp_path, changes, message):
    with pytest.raises(RequestError, match=message) as raised:
        load_recipe(with_benchmarks(tmp_path, tiny_text, tasks, **changes))
    assert "benchmarks.yaml:" in str(raised.value)


def test_a_task_that_does_not_exist_is_refused_before_any_work(tiny_text, tasks, tmp_path, capsys):
    recipe = with_benchmarks(tmp_path, tiny_text, tmp_path / "nowhere")
    assert main(["run", str(recipe), "--output-dir", str(tmp_path / "out"), "--workers", "0"]) == 2
    assert "benchmarks.include_path: there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_metric_with_one_filter_is_that_metric_and_with_two_is_refused():
    rows = [ScoredRow(name, name, name, "t", values={"em:strict": 1.0, "other": 3.0}) for name in "ab"]
    assert _values(rows, "t", "em") == [1.0, 1.0]
    with pytest.raises(RequestError, match="'em', and t gives em:loose, em:strict: that is not one value"):
        _values([ScoredRow("a", "a", "a", "t", values={"em:strict": 1.0, "em:loose": 1.0})], "t", "em")


def test_a_metric_that_the_task_does_not_have(finished, tiny_text, tasks, tmp_path, capsys):
    recipe = with_benchmarks(tmp_path, tiny_text, tasks, metric="f1")
    out = adopted(finished, tmp_path / "out", recipe)
    assert main(["evaluate", str(recipe), "--output-dir", str(out), "--workers", "0"]) == 2
    assert "gave no value per question (asked for: ('f1',))" in capsys.readouterr().err
