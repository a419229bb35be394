"""Auditing a checkpoint: the same judgement as when the run had trained it itself, and nothing published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hf_unlearn import RequestError, audit
from hf_unlearn.cli.main import main
from hf_unlearn.recipe import load_recipe


def write_audit(folder: Path, text: str, checkpoint: Path, further: str = "") -> Path:
    """The recipe of a run with its training taken out."""
    start, end = text.index("methods:"), text.index("controls:")
    path = folder / "audit.yaml"
    path.write_text(f"{text[:start]}methods:\n  - {{name: npo-kl, checkpoint: {checkpoint}{further}}}\n{text[end:]}")
    return path


def report_of(output_dir: Path) -> dict:
    return json.loads((output_dir / "verify" / "unlearning_report.json").read_text())


@pytest.fixture(scope="module")
def audited_by_command(finished, tiny_text, tmp_path_factory) -> tuple[Path, Path, int]:
    """Recipe, output folder and exit code of an audit of the finished run's files."""
    folder = tmp_path_factory.mktemp("audited")
    recipe = write_audit(folder, tiny_text, finished / "train")
    code = main(["audit", str(recipe), "--output-dir", str(folder / "out"), "--workers", "0"])
    return recipe, folder / "out", code


def test_an_audit_says_what_the_run_said_of_the_same_files(finished, audited_by_command, capsys):
    recipe, out, code = audited_by_command
    audited, trained = report_of(out), report_of(finished)
    assert code == (0 if trained["verdict"]["status"] == "passed" else 1)
    for key in ("verdict", "scores", "recovered", "utility", "controls", "attacks", "gate"):
        assert audited[key] == trained[key], key
    assert audited["models"]["unlearned"]["files"] == trained["models"]["unlearned"]["files"]
    assert not (out / "publish").exists()
    assert not (out / "train").exists()
    assert str(finished) not in json.dumps(audited)
    capsys.readouterr()
    assert main(["publish", str(recipe), "--output-dir", str(out), "--workers", "0"]) == 2
    assert "an audit publishes nothing" in capsys.readouterr().err


def test_target_and_never_knew_may_be_folders(finished, model_cache, tiny_text, tmp_path):
    trained = report_of(finished)
    folders = {}
    for name in ("target", "never_knew"):
        digest = trained["models"][name]["files"]["model.safetensors"]
        from hf_unlearn.verification.digests import sha256_file

        folders[name] = next(
            path for path in (model_cache / "scratch").iterdir() if sha256_file(path / "model.safetensors") == digest
        )
    start, end = tiny_text.index("model:"), tiny_text.index("data:")
    given = f"model:\n  target: {folders['target']}\n  never_knew: {folders['never_knew']}\n"
    text = tiny_text[:start] + given + tiny_text[end:]
    start, end = text.index("controls:"), text.index("export:")
    recipe = write_audit(tmp_path, text[:start] + "controls:\n" + text[end:], finished / "train")
    recipe.write_text(recipe.read_text().replace("controls:\n", ""))
    result = audit(recipe, tmp_path / "out", workers=0)
    assert result.verified is not None
    for key in ("scores", "recovered"):
        there = [row for row in trained[key] if row.get("model") != "other-never-knew"]
        assert list(result.verified.report[key]) == there


def test_a_recipe_that_trains_is_no_audit(tiny_recipe):
    with pytest.raises(RequestError, match=r"methods\.0 \(npo-kl\) names none.*hf-unlearn run"):
        audit(tiny_recipe)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (", learning_rate: 1.0e-3", r"audit\.yaml:\d+: 'methods\.0\.learning_rate' cannot be set with"),
        (", revision: 3", r"audit\.yaml:\d+: methods\.0\.revision is 3, it must be text"),
        ("}\n  - {name: other, max_steps: 3", r"methods has checkpoints to judge and methods to train \(other\)"),
    ],
)
def test_what_makes_no_sense_beside_a_checkpoint(tiny_text, tmp_path, further, message):
    with pytest.raises(RequestError, match=message):
        load_recipe(write_audit(tmp_path, tiny_text, tmp_path, further))


def test_a_checkpoint_that_is_no_model_is_named(finished, tiny_text, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    recipe = write_audit(tmp_path, tiny_text, empty)
    assert main(["audit", str(recipe), "--output-dir", str(tmp_path / "out"), "--workers", "0"]) == 2
    assert "the checkpoint of npo-kl: the folder" in capsys.readouterr().err


def test_an_audit_resumes(audited_by_command, tmp_path):
    recipe, first, _ = audited_by_command
    out = shutil.copytree(first, tmp_path / "out")
    shutil.rmtree(out / "verify")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("records.jsonl")}
    again = audit(recipe, out, workers=0)
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("records.jsonl")}
    assert again.verified is not None
    assert again.verified.report["recovered"] == report_of(first)["recovered"]
