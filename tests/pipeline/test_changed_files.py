"""Files that change between stages: found before anything is judged or published, and named in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.stages.units import MANIFEST

VERIFY = ("verify", "publish", "publish-bnb-nf4", "report.html", "release.json")


@pytest.fixture
def scored(finished: Path, tmp_path: Path) -> Path:
    """A run that stopped after its attacks."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    for name in VERIFY:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return folder


def refused(folder: Path, recipe: Path, capsys, *said: str, command: str = "run") -> None:
    capsys.readouterr()
    assert main([command, str(recipe), "--output-dir", str(folder), "--workers", "0"]) == 2
    told = capsys.readouterr().err
    for words in said:
        assert words in told
    assert "Traceback" not in told
    assert not (folder / "verify").exists() and not (folder / "publish").exists()


def target_weights(folder: Path) -> bytes:
    """Weights of another model of the run: those of its controls lie in the cache, the quantized target here."""
    return (folder / "references" / "export" / "target" / "bnb-nf4" / "model.safetensors").read_bytes()


def lines_missing(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-3])


def value_changed(text: str) -> str:
    first, rest = text.split("\n", 1)
    record = json.loads(first)
    record["values"] = dict.fromkeys(record["values"], 0.0)
    return json.dumps(record) + "\n" + rest


def not_a_number(text: str) -> str:
    first, rest = text.split("\n", 1)
    record = json.loads(first)
    record["values"] = dict.fromkeys(record["values"], float("nan"))
    return json.dumps(record) + "\n" + rest


def cut_in_a_line(text: str) -> str:
    return text[: len(text) * 2 // 3]


@pytest.mark.parametrize(
    ("records", "change"),
    [
        ("evaluate/identity", lines_missing),
        ("evaluate/bnb-nf4", value_changed),
        ("attack/rtt/fold0-lr0.001", not_a_number),
        ("references/evaluate/target/identity", cut_in_a_line),
    ],
)
def test_records_that_are_not_what_was_written(
    records: str, change: Callable[[str], str], scored: Path, tiny_recipe: Path, capsys
):
    path = next((scored / records).glob("*.jsonl"))
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    refused(scored, tiny_recipe, capsys, f"{path.name} was changed since it was made", "remove the folder")


def test_the_targets_own_weights_in_place_of_the_unlearned_ones(scored: Path, tiny_recipe: Path, capsys):
    (scored / "train" / "model.safetensors").write_bytes(target_weights(scored))
    refused(scored, tiny_recipe, capsys, "train/model.safetensors was changed since the model was made")
    refused(scored, tiny_recipe, capsys, "train/model.safetensors was changed", command="publish")


def test_weights_that_change_before_they_are_scored(scored: Path, tiny_recipe: Path, capsys):
    (scored / "train" / "model.safetensors").write_bytes(target_weights(scored))
    for stage, folder in (("export", "export"), ("evaluate", "evaluate"), ("attack", "attack")):
        kept = scored / folder
        moved = kept.rename(scored.parent / folder)
        refused(scored, tiny_recipe, capsys, "train/model.safetensors was changed", command=stage)
        assert not any(path.is_dir() for path in kept.rglob("*"))
        shutil.rmtree(kept, ignore_errors=True)
        moved.rename(kept)


@pytest.mark.parametrize(
    ("folder", "name"), [("train", "chat_template.jinja"), ("export/bnb-nf4", "added_tokens.json")]
)
def test_a_file_that_appears_after_scoring(folder: str, name: str, scored: Path, tiny_recipe: Path, capsys):
    (scored / folder / name).write_text("{}")
    refused(scored, tiny_recipe, capsys, f"{folder}/{name} was added", "remove the folder")


def test_a_training_log_that_is_damaged(scored: Path, tiny_recipe: Path, capsys):
    (scored / "train" / "training.json").write_text("junk")
    refused(scored, tiny_recipe, capsys, "train/training.json was changed")


def test_a_report_that_was_edited_is_not_published(finished: Path, tmp_path: Path, tiny_recipe: Path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    shutil.rmtree(folder / "publish")
    path = folder / "verify" / "unlearning_report.json"
    path.write_text(path.read_text().replace('"name":', '"name" :', 1))
    assert main(["publish", str(tiny_recipe), "--output-dir", str(folder), "--workers", "0"]) == 2
    assert "unlearning_report.json was changed or removed" in capsys.readouterr().err
    assert not (folder / "publish").exists()


def test_a_damaged_manifest_means_that_the_unit_is_made_again(scored: Path, tiny_recipe: Path):
    unit = scored / "evaluate" / "identity"
    before = (unit / "records.jsonl").read_bytes()
    (unit / MANIFEST).write_text("null")
    assert main(["evaluate", str(tiny_recipe), "--output-dir", str(scored), "--workers", "0"]) == 0
    assert (unit / "records.jsonl").read_bytes() == before
    assert len(json.loads((unit / MANIFEST).read_text())["outputs"]) == 2


def test_a_file_where_a_folder_should_be(scored: Path, tiny_recipe: Path, capsys):
    shutil.rmtree(scored / "evaluate")
    (scored / "evaluate").write_text("in the way")
    capsys.readouterr()
    assert main(["evaluate", str(tiny_recipe), "--output-dir", str(scored), "--workers", "0"]) == 2
    told = capsys.readouterr().err
    assert "in a file, not in a folder" in told and "Traceback" not in told
