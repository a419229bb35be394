"""``hf-unlearn plan``, and that everything in a run's way is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_recipe import TINY, line_of

from hf_unlearn.cli import plan as plan_command
from hf_unlearn.cli.main import main
from hf_unlearn.planning.machines import MACHINES
from hf_unlearn.planning.memory import STRATEGIES


def plan(recipe: Path, *options: str) -> int:
    return main(["plan", str(recipe), "--flops", "1e10", *options])


def test_a_plan_tells_every_stage_and_starts_nothing(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    assert plan(recipe, "--output-dir", str(out)) == 0
    told = capsys.readouterr().out
    for words in ("train     npo-kl", "models    2 built from scratch", "attack    rtt", "in all: "):
        assert words in told
    assert "weights " in told and "optimizer " in told and not out.exists()
    assert max(map(len, told.splitlines()[:12])) <= 110


def test_a_plan_as_json_is_the_same_with_run(recipe, capsys):
    assert plan(recipe, "--json", "methods.0.max_steps=9") == 0
    told = json.loads(capsys.readouterr().out)
    (train,) = [stage for stage in told["plan"]["stages"] if stage["stage"] == "train"]
    assert train["steps"] == 9 and train["memory"]["peak"] > 0 and told["findings"] == []
    assert main(["run", str(recipe), "--dry-run", "--json", "--flops", "1e10", "methods.0.max_steps=9"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["stages"] == told["plan"]["stages"]


def test_what_does_not_fit_comes_with_what_would(recipe, capsys):
    assert plan(recipe, "--memory", "0.002", "--json", "methods.0.per_device_train_batch_size=16") == 0
    told = json.loads(capsys.readouterr().out)
    (train,) = [stage for stage in told["plan"]["stages"] if stage["stage"] == "train"]
    assert train["fits"] is False
    careful = [finding for finding in told["findings"] if finding["level"] == "warn"]
    assert any("train npo-kl needs about" in finding["sentence"] and finding["mend"] for finding in careful)


def test_less_memory_than_anything_takes_is_told_stage_by_stage(recipe, capsys):
    assert plan(recipe, "--memory", "1e-6", "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    loaded = [stage for stage in told["plan"]["stages"] if stage["stage"] in ("train", "evaluate", "attack")]
    assert len(loaded) >= 3 and not any(stage["fits"] for stage in loaded)
    needs = [each["sentence"] for each in told["findings"] if "needs about" in each["sentence"]]
    assert len(needs) >= 2 and not any("\n" in sentence for sentence in needs) and "Traceback" not in captured.err


def test_what_attackers_train_follows_from_the_device_or_the_folder(recipe, tmp_path, capsys):
    out = tmp_path / "out"

    def attacked(memory: str) -> tuple[str, str]:
        options = ["--memory", memory, "--json", "--output-dir", str(out), "attack.rtt.tuning=auto"]
        assert plan(recipe, *options) == 0
        told = json.loads(capsys.readouterr().out)
        (note,) = [each["sentence"] for each in told["findings"] if "tuning: auto" in each["sentence"]]
        (stage,) = [stage for stage in told["plan"]["stages"] if stage["stage"] == "attack"]
        return note, stage["note"]

    assert "attack.rtt.tuning: auto is full fine-tuning: it takes about" in attacked("1")[0]
    note, of_stage = attacked("0.002")
    assert "attack.rtt.tuning: auto is LoRA of rank" in note
    assert of_stage.startswith("LoRA of rank") and of_stage in note
    (out / "train").mkdir(parents=True)
    begun = {"name": "tiny", "recipe": {"attack": {"rtt": {"tuning": "full", "lora_rank": 16}}}}
    (out / "run.json").write_text(json.dumps(begun))
    note, _ = attacked("0.002")
    assert note.endswith("auto is full fine-tuning: as in the part of this run that is there")


BROKEN = (
    TINY.replace("loss_type: npo", "loss_type: npo\n    peft: {target_modules: [q_prj]}")
    .replace("[bnb-nf4]", "[bnb-nf4, rtn-int4-g128]")
    .replace("{folds: 2,", "{folds: 2, tuning: lora, lora_rank: 4096,")
    .replace("max_recovered_share_formats: 0.30", "max_recovered_share_formats: 0.05")
)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_everything_in_the_way_is_told_at_once(command, tmp_path, capsys):
    recipe = tmp_path / "broken.yaml"
    recipe.write_text(BROKEN)
    out = tmp_path / "out"
    assert main([command, str(recipe), "--output-dir", str(out)]) == 2
    captured = capsys.readouterr()
    told = captured.err if command == "run" else captured.out
    assert "gate.max_recovered_share_formats is 0.05" in told
    assert "rtt.lora_rank is 4096" in told
    assert "rtn-int4-g128" in told and "64" in told
    assert "peft.target_modules names 'q_prj'" in told and "did you mean 'q_proj'" in told
    assert f"broken.yaml:{line_of(BROKEN, 'name: npo-kl')}: " in told
    assert "Traceback" not in captured.err and not (out / "train").exists()
    if command == "run":
        assert "4 things are in the way, and nothing was started:\n  1. " in told


def test_rows_that_cannot_be_read_are_told_for_every_set(tmp_path, capsys):
    text = TINY[: TINY.index("data:")].replace("model:", "model:\n") + (
        "data:\n  description: years\n  forget: {path: one.jsonl}\n  retain: {path: two.jsonl}\n"
    )
    recipe = tmp_path / "files.yaml"
    recipe.write_text(text + TINY[TINY.index("methods:") :])
    assert main(["run", str(recipe), "--output-dir", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "data.forget: " in told and "data.retain: " in told and "2 things are in the way" in told


def test_a_disk_that_is_too_small_is_refused_before_anything_starts(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hf_unlearn.stages.preflight.free_bytes", lambda folder: 500)
    out = tmp_path / "out"
    assert main(["run", str(recipe), "--output-dir", str(out), "--workers", "0"]) == 3
    told = capsys.readouterr().err
    assert "500 bytes of the disk are free" in told and "save_total_limit" in told and not (out / "train").exists()


def on_disk(folder: Path) -> int:
    """Bytes in whole blocks, as ``du`` counts them."""
    return sum(512 * each.lstat().st_blocks for each in (folder, *folder.rglob("*")))


def test_the_planned_disk_is_what_a_finished_run_takes_and_at_most_a_half_more(recipe, finished, tmp_path, capsys):
    assert plan(recipe, "--output-dir", str(tmp_path / "out"), "--json") == 0
    stages = json.loads(capsys.readouterr().out)["plan"]["stages"]
    folders = {
        "train": ["train"],
        "export": ["export", "references/export"],
        "evaluate": ["evaluate", "references/evaluate"],
        "attack": ["attack", "references/attack"],
        "verify": ["verify", "report.html"],
        "publish": ["publish", "publish-bnb-nf4"],
    }
    for name, where in folders.items():
        written = sum(on_disk(finished / each) for each in where)
        planned = sum(stage["disk"] for stage in stages if stage["stage"] == name)
        assert written <= planned <= 2 * written, name
    stays = sum(stage["disk"] for stage in stages)
    assert on_disk(finished) <= stays <= 1.5 * on_disk(finished)
    assert sum(stage["disk"] - stage["small"] // 2 for stage in stages) <= on_disk(finished)


def test_what_only_a_careful_plan_has_no_room_for_is_a_warning(recipe, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "out")
    assert plan(recipe, "--output-dir", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)["plan"]
    sure = told["disk"] - sum(stage["small"] for stage in told["stages"]) // 2

    def findings(free: int) -> list[tuple[str, str]]:
        monkeypatch.setattr("hf_unlearn.stages.preflight.free_bytes", lambda folder: free)
        main(["run", str(recipe), "--output-dir", out, "--dry-run", "--json", "--flops", "1e10"])
        found = json.loads(capsys.readouterr().out)["findings"]
        return [(each["level"], each["sentence"]) for each in found]

    assert findings(told["disk"]) == []
    ((level, sentence),) = findings(told["disk"] - 100_000)
    assert level == "warn" and "of the disk are free" in sentence
    assert told["disk"] - 100_000 > sure


def test_checkpoints_of_a_finished_training_are_not_planned_again(recipe, finished, capsys):
    assert plan(recipe, "--output-dir", str(finished), "--json") == 0
    (train,) = [each for each in json.loads(capsys.readouterr().out)["plan"]["stages"] if each["stage"] == "train"]
    assert train["scratch_disk"] == 0


@pytest.mark.parametrize("given", [["--gpus", "8"], ["--machine", "h100"], ["--json"]], ids=lambda given: given[0])
def test_options_of_a_plan_are_no_options_of_a_run(given, recipe, refused, tmp_path):
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "out", *given)
    assert sentence == f"{given[0]} is for a plan: add --dry-run, or remove it"
    assert not (tmp_path / "out").exists()


def test_help_names_every_machine_and_strategy():
    assert sorted(plan_command._MACHINES.split(", ")) == sorted([*MACHINES, "cpu"])
    assert sorted(plan_command._STRATEGIES.split(", ")) == sorted(set(STRATEGIES) - {"one"})


def test_retraining_is_compared_with_one_request(recipe, refused, capsys):
    assert plan(recipe, "--json") == 0
    told = json.loads(capsys.readouterr().out)["plan"]["advice"]
    assert told["better"] == "retrain" and told["retrain_source"] == "the recipe"
    assert told["requests_per_retraining"][1] < 1 and told["measured"] == []
    sentence = refused(2, "plan", recipe, "--retrain-tokens", "1e6")
    assert sentence.endswith("the recipe says how its target is trained (model.scratch): leave it out")
    assert refused(2, "plan", recipe, "--retrain-tokens", "0") == "--retrain-tokens is 0: it must be above 0"
    assert refused(2, "run", recipe, "--retrain-tokens", "5").startswith("--retrain-tokens is for a plan")
