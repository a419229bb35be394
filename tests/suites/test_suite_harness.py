"""Tasks of lm-evaluation-harness on local data, without a network."""

from __future__ import annotations

import json

import pytest
import yaml
from suite_data import mcq_rows, write_lines

from hf_unlearn.cli.main import main
from hf_unlearn.data.encoding import load_tokenizer
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.suites.harness import _stop_clock

pytest.importorskip("lm_eval")


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder with one task in the harness's own format."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{**row, "choices": [str(year) for year in row["choices"]]} for row in mcq_rows("birth")]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    task = {
        "task": "tiny_years",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "tiny_years.yaml").write_text(yaml.safe_dump(task))
    return folder


def test_a_local_task_agrees_with_own_scores_and_is_not_repeated(tasks, model, tmp_path, capsys):
    out = tmp_path / "out"
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        yaml.safe_dump(
            {
                "set": {"years": {"path": str(tmp_path / "rows.jsonl"), "metrics": ["mc_accuracy"]}},
                "harness": {"tasks": ["tiny_years"], "include_path": str(tasks)},
            }
        )
    )
    command = ["evaluate", str(model), "--suite", str(suite), "--output-dir", str(out)]
    assert main(command) == 0
    assert "tiny_years" in capsys.readouterr().out
    result = json.loads((out / "suite.json").read_text())
    own = read_records(out / "records.jsonl")
    theirs = read_records(out / "harness" / "tiny_years.jsonl")
    # The harness compares sums of log-probabilities.
    hits = [max(range(4), key=row.choice_logps.__getitem__) == row.right_choice for row in own]
    assert [record.values["acc"] for record in theirs] == [float(hit) for hit in hits]
    assert result["scores"]["tiny_years"]["acc"]["mean"] == pytest.approx(sum(hits) / 12)
    assert result["scores"]["tiny_years"]["acc"]["ci95"] is not None
    assert result["harness"]["tiny_years"]["results"]["tiny_years"]["acc,none"] == pytest.approx(sum(hits) / 12)

    (out / "suite.json").unlink()
    written = (out / "harness" / "tiny_years.jsonl").stat().st_mtime_ns
    assert main(command) == 0
    assert (out / "harness" / "tiny_years.jsonl").stat().st_mtime_ns == written
    assert main(["compare", str(out), str(out)]) == 0
    assert "acc" in capsys.readouterr().out


def test_tasks_and_folders_that_are_not_there(refused, model, tasks, tmp_path):
    command = ["evaluate", model, "--suite", "general", "--output-dir", tmp_path / "out"]
    said = refused(*command, "harness.tasks=[tiny_yeers]", f"harness.include_path={tasks}")
    assert "'tiny_yeers'" in said
    assert "'tiny_years'" in said
    assert "no folder" in refused(*command, "harness.include_path=/nowhere")
    assert "no chat template" in refused(
        *command, "harness.tasks=[tiny_years]", f"harness.include_path={tasks}", "harness.format=chat"
    )
    (tmp_path / "rows.jsonl").unlink()
    said = refused(*command, "harness.tasks=[tiny_years]", f"harness.include_path={tasks}")
    assert "rows.jsonl" in said
    assert not (tmp_path / "out" / "suite.json").exists()


def test_the_harness_is_given_a_template_whose_clock_stands(model):
    """Llama's templates write today's date, so that the same questions had other tokens on another day."""
    tokenizer = load_tokenizer(str(model))
    asks = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    tokenizer.chat_template = asks + "{{ date_string }}{% for m in messages %} {{ m['content'] }}{% endfor %}"
    question = [{"role": "user", "content": "when?"}]
    assert "2024" not in tokenizer.apply_chat_template(question, tokenize=False)
    _stop_clock(tokenizer)
    assert tokenizer.apply_chat_template(question, tokenize=False) == "26 Jul 2024 when?"
    tokenizer.chat_template = {"default": asks + "{{ date_string }}", "tool_use": "{{ strftime_now('%Y') }}"}
    _stop_clock(tokenizer)
    assert tokenizer.apply_chat_template(question, tokenize=False) == "26 Jul 2024"
    assert tokenizer.chat_template["tool_use"] == '{{ "2024" }}'
    tokenizer.chat_template = "{{ strftime_now(format) }}"
    with pytest.raises(RequestError, match="asks the clock"):
        _stop_clock(tokenizer)
