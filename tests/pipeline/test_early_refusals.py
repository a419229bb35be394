"""Runs whose verdict would mean nothing end before they train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.data.planted import make_planted
from hf_unlearn.recipe import Recipe, load_recipe
from hf_unlearn.verification.digests import sha256_file


@pytest.fixture
def models(finished: Path, model_cache: Path) -> dict[str, Path]:
    """Folders of the finished run's target and never-knew model."""
    report = json.loads((finished / "verify" / "unlearning_report.json").read_text())
    by_digest = {sha256_file(path): path.parent for path in (model_cache / "scratch").glob("*/model.safetensors")}
    return {name: by_digest[report["models"][name]["files"]["model.safetensors"]] for name in ("target", "never_knew")}


def recipe(folder: Path, text: str, target: Path, never: Path, sets: dict[str, list[dict]] | None = None) -> Path:
    """The tiny recipe with given models, without controls, which would need others, and with sets from files."""
    text = without(text, "controls:", "export:")
    given = f"model:\n  target: {target}\n  never_knew: {never}\n"
    text = without(text, "model:", "data:").replace("data:", f"{given}data:")
    if sets is not None:
        lines = ["data:", "  description: years"]
        for name, rows in sets.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            lines.append(f"  {name}: {{path: {folder / name}.jsonl}}")
        text = without(text, "data:", "methods:").replace("methods:", "\n".join([*lines, "methods:"]))
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def without(text: str, start: str, end: str) -> str:
    """The text with one section taken out."""
    return text[: text.index(start)] + text[text.index(end) :]


def run(path: Path, out: Path, command: str = "run") -> int:
    return main([command, str(path), "--output-dir", str(out), "--workers", "0"])


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_target_that_does_not_know_has_nothing_to_forget(models, tiny_text, tmp_path, capsys, command):
    path = recipe(tmp_path, tiny_text, models["never_knew"], models["never_knew"])
    assert run(path, tmp_path / "out", command) == 2
    assert "there is nothing to forget: 'target' does not clearly know more" in capsys.readouterr().err
    assert not (tmp_path / "out" / "train").exists() and not (tmp_path / "out" / "train.partial").exists()


def test_a_never_knew_model_that_knows_ends_the_run(models, tiny_text, tmp_path, capsys):
    """The target itself, given as the never-knew model, knows forget facts and not those of people nobody learned."""
    planted = load_recipe_text(tiny_text, tmp_path).data.planted
    known = make_planted(planted)
    others = make_planted(replace(planted, seed=5, option_draws=1))

    def plain(rows, limit):
        chosen = rows[::2][:limit]
        return [{"prompt": row.prompt, "answer": row.answer, "choices": list(row.choices)} for row in chosen]

    sets = {
        "forget": plain(known.forget.score, 80),
        "retain": plain(known.retain.score, 40),
        "holdout": plain(others.holdout.score or others.forget.score, 40),
    }
    path = recipe(tmp_path, tiny_text, models["target"], models["target"], sets)
    assert run(path, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "no verdict can be given: 'never_knew' knows facts that it must never have seen" in error
    assert "Name another never-knew model, or leave it out" in error
    assert not (tmp_path / "out" / "train").exists()


def load_recipe_text(text: str, folder: Path) -> Recipe:
    """The recipe of this text."""
    path = folder / "planted.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_what_was_scored_early_is_not_scored_again(models, tiny_text, tmp_path):
    path = recipe(tmp_path, tiny_text, models["target"], models["never_knew"])
    assert run(path, tmp_path / "out", "train") == 0
    scored = sorted((tmp_path / "out" / "references" / "evaluate").glob("*/identity/records.jsonl"))
    assert [each.parts[-3] for each in scored] == ["never_knew", "target"]
    times = [each.stat().st_mtime_ns for each in scored]
    assert run(path, tmp_path / "out", "export") == 0
    assert run(path, tmp_path / "out", "evaluate") == 0
    assert [each.stat().st_mtime_ns for each in scored] == times


def test_an_attack_that_does_not_fit_the_models_is_refused_before_training(models, tiny_text, tmp_path, capsys):
    path = recipe(tmp_path, tiny_text, models["target"], models["never_knew"])
    path.write_text(path.read_text().replace("  rtt: {", "  rtt: {tuning: lora, lora_rank: 4096, "))
    for command in ("run", "train"):
        assert run(path, tmp_path / command, command) == 2
        assert "rtt.lora_rank is 4096, more than the" in capsys.readouterr().err
        assert not list((tmp_path / command).glob("*/"))
