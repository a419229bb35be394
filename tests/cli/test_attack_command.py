"""``attack MODEL``: one model beside those it is compared with, resumed, over processes, refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_recipe import TINY, run, write_rows

from hf_unlearn.attacks.noise import Noise
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.cli.main import main
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.loading import load_model
from hf_unlearn.quantization import export_format
from hf_unlearn.verification.report_file import load_report

SPEC = PlantedSpec(forget=16, retain=16, holdout=4, practice=8, generic=16, option_draws=2, first_year=1980)


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's forget set as a user's file."""
    members = [
        {"prompt": row.prompt, "answer": row.answer, "group": row.group, "choices": list(row.choices)}
        for row in make_planted(SPEC).forget.score
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "forget.jsonl", members)


def attack(model: Path, out: Path, *words: object) -> int:
    return main(["attack", str(model), "--output-dir", str(out), *map(str, words)])


def found(out: Path) -> dict[str, dict]:
    result = json.loads((out / "attacks.json").read_text())
    return {attack["name"]: attack for attack in result["attacks"]}


def test_one_model_with_rows_of_ones_own(finished, rows, tmp_path, capsys):
    model, out = finished / "train", tmp_path / "out"
    assert attack(model, out, "--attack", "prune", "--data", rows, "attack.prune.shares=[0.2]") == 0
    said = capsys.readouterr().out
    assert "attacks on 1 model:" in said and "prune  1 job, " in said and "about" in said
    prune = found(out)["prune"]
    assert prune["budget"]["shares"] == [0.2]
    (row,) = [row for row in prune["metrics"] if row["metric"] == "probability"]
    assert set(row["scores"]) == {"model"} and "recovered_share" not in row
    assert f"{row['before']['model']:.3f} → {row['scores']['model']:.3f}" in said
    text = (out / "attacks.json").read_text()
    assert not any(json.loads(line)["prompt"] in text for line in rows.read_text().splitlines())


def test_answers_without_a_space_are_asked_after_one(finished, tmp_path, capsys):
    """Rows such as question/answer bring none, and nobody writes the two without a space between them."""
    members = [
        {"question": row.prompt, "answer": row.answer.strip(), "group": row.group}
        for row in make_planted(SPEC).forget.score
    ]
    spaceless = write_rows(tmp_path / "rows.jsonl", members)
    spaced = write_rows(tmp_path / "spaced.jsonl", [{**row, "answer": f" {row['answer']}"} for row in members])
    scores = []
    for rows, told in ((spaceless, True), (spaced, False)):
        out = tmp_path / rows.stem
        assert attack(finished / "train", out, "--attack", "prune", "--data", rows, "attack.prune.shares=[0.2]") == 0
        assert ("a space is put between question and answer" in capsys.readouterr().out) is told
        scores.append({row["metric"]: row["scores"] for row in found(out)["prune"]["metrics"]})
    assert scores[0] == scores[1]


def test_a_recipe_gives_rows_settings_and_the_models_to_compare_with(finished, recipe, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--attack", "noise", "--recipe", recipe, "attack.noise.draws=1", "attack.noise.amounts=[0.3]", "--json"]
    assert attack(finished / "train", out, *words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "attacks.json").read_text())
    noise = found(out)["noise"]
    (row,) = [row for row in noise["metrics"] if row["metric"] == "probability"]
    scores = row["scores"]
    assert row["facts"] == 16 and set(scores) == {"model", "target", "never_knew"}
    share = (scores["model"] - scores["never_knew"]) / (scores["target"] - scores["never_knew"])
    assert row["recovered_share"] == pytest.approx(share, rel=1e-9)
    assert row["ci95"][0] < share < row["ci95"][1]


def test_what_is_done_is_not_done_again(finished, rows, tmp_path, monkeypatch):
    out, jobs = tmp_path / "out", []
    original = Prune.run_job

    def watched(self, job, attacked, folder):
        if job == "share0.3" and len(jobs) == 2:
            jobs.append("killed")
            raise KeyboardInterrupt
        jobs.append(job)
        original(self, job, attacked, folder)

    monkeypatch.setattr(Prune, "run_job", watched)
    words = (finished / "train", out, "--attack", "prune", "--data", rows)
    assert attack(*words) == 130
    assert attack(*words) == 0
    assert jobs == ["share0.1", "share0.2", "killed", "share0.3"]
    assert not list(out.rglob("*.partial"))
    assert all(name.startswith("run.") for name in os.listdir(out / ".locks"))  # no claim is left


def test_costs_are_said_and_nothing_is_run(finished, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Noise, "run_job", None)
    out = tmp_path / "out"
    assert attack(finished / "train", out, "--tier", "quick", "--cost", "--data", rows) == 0
    said = capsys.readouterr().out
    assert "noise" in said and "9 jobs" in said and "together" in said and " about " in said
    assert not (out / "attacks.json").exists()


def test_before_and_after_quantizing(finished, rows, tmp_path):
    out = tmp_path / "out"
    words = (finished / "train", out, "--attack", "prune", "--data", rows, "attack.prune.shares=[0.2]")
    assert attack(*words, "--after", "bnb-nf4", "--then", "rtn-int4-g32") == 0
    result = found(out)["prune-after-bnb-nf4-then-rtn-int4-g32"]
    assert {key: result["budget"][key] for key in ("attack", "after", "then")} == {
        "attack": "prune",
        "after": "bnb-nf4",
        "then": "rtn-int4-g32",
    }
    assert (out / "export" / "model" / "bnb-nf4" / "config.json").exists()
    assert not (out / "model" / ".weights").exists()


def test_a_quantized_model_is_attacked_by_the_weights_it_stands_for(finished, rows, tmp_path):
    export_format("bnb-nf4", finished / "train", tmp_path / "nf4")
    for name, model, words in (("a", tmp_path / "nf4", ()), ("b", finished / "train", ("--after", "bnb-nf4"))):
        chosen = ("--attack", "prune", "--data", rows, "attack.prune.shares=[0.2]")
        assert attack(model, tmp_path / name, *chosen, *words) == 0
    first, second = found(tmp_path / "a")["prune"], found(tmp_path / "b")["prune-after-bnb-nf4"]
    assert first["metrics"] == second["metrics"]


@pytest.mark.slow
def test_the_stage_attacks_after_and_before_quantizing(finished, tmp_path):
    """A whole run with both orders: the report has each under its own name, with its order in the budget."""
    recipe, out = tmp_path / "ordered.yaml", tmp_path / "run"
    orders = (
        "  nf4-prune: {attack: prune, after: bnb-nf4, shares: [0.2]}\n  prune-nf4: {attack: prune, then: bnb-nf4}\n"
    )
    rtt = next(line for line in TINY.splitlines(keepends=True) if line.startswith("  rtt:"))
    recipe.write_text(TINY.replace(rtt, orders))
    assert run(recipe, out) == 1
    report = load_report(out / "verify" / "unlearning_report.json")
    budgets = {entry["name"]: entry["budget"] for entry in report["attacks"]}
    assert set(budgets) == {"nf4-prune", "prune-nf4"}
    assert (budgets["nf4-prune"]["after"], budgets["prune-nf4"]["then"]) == ("bnb-nf4", "bnb-nf4")
    assert {row["transform"] for row in report["recovered"]} >= {"nf4-prune", "prune-nf4", "identity", "bnb-nf4"}
    assert not list(out.rglob(".weights"))


def test_two_processes_share_the_jobs(finished, rows, tmp_path):
    out = tmp_path / "out"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29561"]
    command = ["-m", "hf_unlearn", "attack", finished / "train", "--output-dir", out, "--data", rows]
    chosen = ["--attack", "prune", "attack.prune.shares=[0.1,0.15,0.2,0.25,0.3,0.35]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    words = [*launcher, *map(str, command), *chosen]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    alone = tmp_path / "alone"
    assert attack(finished / "train", alone, "--data", rows, *chosen) == 0
    assert found(out) == found(alone)
    assert done.stdout.count("attacks on 1 model:") == 1


@pytest.mark.slow
def test_jobs_over_workers_make_the_same(finished, rows, tmp_path):
    chosen = ("--attack", "prune", "--data", rows, "attack.prune.shares=[0.2,0.3]")
    for name, workers in (("none", 0), ("two", 2)):
        assert attack(finished / "train", tmp_path / name, *chosen, "--workers", workers) == 0
    assert found(tmp_path / "none") == found(tmp_path / "two")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--attack", "prune"], "needs rows to ask for: give either --recipe RECIPE or --data FORGET_FILE"),
        (["--attack", "prune", "--data", "ROWS", "--recipe", "quickstart"], "--recipe and --data are both given"),
        (
            ["--attack", "prun", "--data", "ROWS"],
            "attack.prun: there is no attack called 'prun': did you mean 'prune'",
        ),
        (["--tier", "slow", "--data", "ROWS"], "there is no tier called 'slow'"),
        (["--attack", "prune", "--data", "no.jsonl"], "no.jsonl"),
        (["--attack", "prune", "--data", "kept=ROWS"], "there is no set called 'kept'"),
        (["--attack", "prune", "--data", "ROWS", "--data", "ROWS"], "the forget set is given twice"),
        (["--attack", "prune", "--data", "retain=ROWS"], "give --data FILE for the forget set"),
        (["--attack", "interpolate", "--data", "ROWS"], "interpolate uses the model before unlearning"),
        (["--attack", "finetune-retain", "--data", "ROWS"], "name data.retain"),
        (["--tier", "quick", "--after", "bnb-nf4", "--data", "ROWS"], "--after goes with attacks by name"),
        ([], "is a folder and not a recipe: to attack a model add --attack NAME"),
        (["--attack", "prune", "--after", "gptq-int4", "--data", "ROWS"], "is calibrated on text"),
        (["--attack", "prune", "--data", "ROWS", "attack.prune.shares=[2]"], "prune.shares must name shares"),
        (["--attack", "prune", "--data", "ROWS", "data.forget.answer=nothing"], "nothing"),
        (["--target", "x"], "--target goes with one model: name the attack too"),
        (["--cost"], "--cost goes with one model: name the attack too"),
    ],
)
def test_wrong_requests_end_in_one_sentence(words, sentence, finished, rows, refused, tmp_path):
    words = [word.replace("ROWS", str(rows)) for word in words]
    assert sentence in refused(2, "attack", finished / "train", "--output-dir", tmp_path / "out", *words)
    assert not (tmp_path / "out" / "attacks.json").exists()


def test_a_folder_without_a_model_and_a_folder_of_something_else(finished, rows, refused, tmp_path):
    chosen = ("--attack", "prune", "--data", rows)
    sentence = refused(2, "attack", tmp_path, "--output-dir", tmp_path / "out", *chosen)
    assert "MODEL: the folder" in sentence and "holds no config.json" in sentence
    sentence = refused(2, "attack", finished / "train", "--output-dir", finished, *chosen)
    assert "holds a run, not attacks on" in sentence
    assert load_model(finished / "train") is not None
