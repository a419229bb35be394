"""What a suite compares with: records, another model, and published TOFU logs."""

from __future__ import annotations

import json
import math

import pytest
from suite_data import NAMES, tofu_rows

from hf_unlearn.cli.main import main
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.suites.tofu_log import LOG_SPLITS


def log_of(folder):
    """The records of an evaluated folder in the layout of ``eval_log_aggregated.json``."""
    records = read_records(folder / "records.jsonl")
    questions = {
        name: [row["question"] for row in tofu_rows(topic)]
        for name, topic in (("forget", "home"), ("retain", "job"), ("real_authors", "novel"), ("world_facts", "river"))
    }
    log = {}
    for split, name in LOG_SPLITS.items():
        columns: dict = {}
        for number, row in enumerate(record for record in records if record.set == name):
            right, wrong = row.variants["paraphrased"][0], row.variants["perturbed"]
            for key, value in {
                "avg_gt_loss": -sum(row.logps) / len(row.logps),
                "num_token_gt": len(row.logps),
                "avg_paraphrased_loss": -right.mean,
                "num_token_paraphrased": right.tokens,
                "average_perturb_loss": [-score.mean for score in wrong],
                "num_token_perturb": [score.tokens for score in wrong],
                "rougeL_recall": 0.5,
                "generated_text": [
                    f"[INST] {questions[name][number]} [/INST]", row.generated or "", row.answer.strip()
                ],
            }.items():  # fmt: skip
                columns.setdefault(key, {})[str(number)] = value
        log[split] = columns
    return log


@pytest.fixture(scope="session")
def log(evaluated):
    return log_of(evaluated)


@pytest.fixture
def write_log(log, tmp_path):
    def write(change=lambda log: None):
        copy = json.loads(json.dumps(log))
        change(copy)
        path = tmp_path / "eval_log_aggregated.json"
        path.write_text(json.dumps(copy))
        return path

    return write


@pytest.fixture
def evaluate(other_model, local_data, tmp_path):
    def command(reference, *keys, out="out"):
        arguments = [
            "evaluate",
            other_model,
            "--suite",
            "tofu",
            "--output-dir",
            tmp_path / out,
            "--reference",
            reference,
        ]
        return [str(word) for word in [*arguments, *local_data["tofu"], *keys]]

    return command, lambda out="out": json.loads((tmp_path / out / "suite.json").read_text())


def test_records_model_and_log_of_one_model_give_the_same_number(evaluate, evaluated, model, write_log):
    command, result = evaluate
    quality = {}
    for kind, reference in (("records", evaluated), ("model", model), ("log", write_log())):
        assert main(command(reference, out=kind)) == 0
        assert result(kind)["reference"] == {"name": str(reference), "kind": kind}
        assert not result(kind)["not_computed"]
        quality[kind] = result(kind)["aggregates"]["forget_quality"]["value"]
    assert quality["records"] == quality["model"]
    assert quality["log"] == pytest.approx(quality["records"], rel=1e-9)
    assert 0 < quality["records"] < 1


def test_a_model_compared_with_its_own_log_passes_the_test(evaluated, model, local_data, write_log, tmp_path):
    command = ["evaluate", str(model), "--suite", "tofu", "--output-dir", str(tmp_path / "own")]
    assert main([*command, "--reference", str(write_log()), *local_data["tofu"]]) == 0
    quality = json.loads((tmp_path / "own" / "suite.json").read_text())["aggregates"]["forget_quality"]
    assert quality["value"] == pytest.approx(1.0)


def test_values_of_a_log_are_its_losses(write_log, evaluated, plain_tokenizer, local_data):
    from hf_unlearn.evaluation.suites import load_suite
    from hf_unlearn.evaluation.suites.references import find_reference, read_reference
    from hf_unlearn.evaluation.suites.rows import load_rows

    rows = load_rows(load_suite("tofu", local_data["tofu"]), plain_tokenizer)
    read = read_reference(find_reference(str(write_log())), rows)
    records = [row for row in read_records(evaluated / "records.jsonl") if row.set == "retain"]
    for found, row in zip(read["retain"], records, strict=True):
        assert found.id == row.id
        assert found.values["probability"] == pytest.approx(math.exp(sum(row.logps) / len(row.logps)))
        assert found.values["rouge_l_stem"] == 0.5
        assert found.variants["perturbed"][1].logp == pytest.approx(row.variants["perturbed"][1].logp)
    assert "holdout" not in read


FORGET = "eval_log_forget.json"


def drop(log, key, number):
    del log[FORGET][key][str(number)]


def shorten(log):
    for column in log[FORGET].values():
        for number in range(8, 12):
            del column[str(number)]


def exchange(log):
    texts = log[FORGET]["generated_text"]
    texts["3"], texts["4"] = texts["4"], texts["3"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (exchange, [FORGET, "generated_text.3", ":4", "do not line up"]),
        (shorten, [FORGET, "8 rows", "12", "set.forget.limit=8"]),
        (lambda log: drop(log, "avg_paraphrased_loss", 5), [FORGET, "avg_paraphrased_loss.5", "missing"]),
        (lambda log: log[FORGET].pop("average_perturb_loss"), [FORGET, "average_perturb_loss"]),
        (lambda log: log[FORGET]["avg_gt_loss"].update({"2": "x"}), [FORGET, "avg_gt_loss.2", "'x'"]),
        (lambda log: log[FORGET]["average_perturb_loss"].update({"1": [1.0]}), [FORGET, "average_perturb_loss.1"]),
        (lambda log: log[FORGET]["generated_text"].update({"0": "text"}), [FORGET, "generated_text.0"]),
        (lambda log: log.update({FORGET: []}), [FORGET, "object"]),
    ],
)
def test_a_log_that_does_not_fit_is_refused_with_file_and_key(change, said, evaluate, refused, write_log):
    line = refused(*evaluate[0](write_log(change)))
    for words in ("eval_log_aggregated.json", *said):
        assert words in line


def test_a_longer_log_is_read_as_far_as_the_rows_go(evaluate, write_log, evaluated):
    command, result = evaluate
    assert main(command(write_log(), "set.forget.limit=10")) == 0
    assert result()["aggregates"]["forget_quality"]["n"] == 10


def test_records_of_other_rows_are_refused(evaluate, evaluated, refused):
    line = refused(*evaluate[0](evaluated, "set.forget.limit=10"))
    assert "forget" in line
    assert f"'forget-000{len(NAMES) - 2}'" in line


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("notes.json", '{"a": 1}', "no TOFU evaluation log"),
        ("notes.json", "{", "no TOFU evaluation log"),
        ("missing.json", None, "does not exist"),
        ("folder", None, "neither records.jsonl nor config.json"),
    ],
)
def test_references_that_are_none(name, text, said, evaluate, refused, tmp_path):
    if name == "folder":
        (tmp_path / name).mkdir()
    elif text is not None:
        (tmp_path / name).write_text(text)
    assert said in refused(*evaluate[0](tmp_path / name))
