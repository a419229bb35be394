"""A whole run through the command line: what is there at the end, and that a second one repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoModelForCausalLM

from hf_unlearn.cli.main import main
from hf_unlearn.verification.report_file import load_report


def files(folder: Path) -> dict[str, int]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".locks"]
    return {str(path): path.stat().st_mtime_ns for path in paths}


def test_everything_a_run_promises_is_there(finished):
    for name in (
        "run.json",
        "report.html",
        "train/model.safetensors",
        "export/bnb-nf4/model.safetensors",
        "evaluate/identity/records.jsonl",
        "evaluate/bnb-nf4/records.jsonl",
        "attack/rtt/fold0-lr0.001/epoch2.jsonl",
        "verify/unlearning_report.json",
        "publish/README.md",
        "publish/unlearning_report.json",
        "publish/report.html",
        "publish-bnb-nf4/model.safetensors",
        "references/evaluate/target/bnb-nf4/records.jsonl",
        "references/attack/never_knew/rtt/fold0-lr0.001/epoch0.jsonl",
    ):
        assert (finished / name).is_file(), name
    assert not list(finished.rglob("*.partial"))


def test_the_report_covers_every_model_under_every_transform(finished):
    report = load_report(finished / "verify" / "unlearning_report.json")
    seen = {(row["model"], row["transform"]) for row in report["scores"] if row["metric"] == "probability"}
    models = ("target", "never_knew", "npo-kl", "other-never-knew")
    assert {(model, transform) for model in models for transform in ("identity", "bnb-nf4", "rtt")} <= seen
    assert report["verdict"]["candidate"] == "npo-kl"
    assert [control["name"] for control in report["controls"]] == ["other-never-knew"]
    wanted = {"model": "target", "transform": "identity", "split": "forget", "metric": "exact_match"}
    (known,) = [row["value"] for row in report["scores"] if wanted.items() <= row.items()]
    assert known >= 0.9


def test_the_report_gives_nothing_away(finished):
    records = (finished / "evaluate" / "identity" / "records.jsonl").read_text().splitlines()
    names = {json.loads(line)["group"] for line in records if json.loads(line)["set"] == "forget"}
    published = [path for path in finished.glob("publish*/**/*") if path.suffix in (".json", ".md", ".html")]
    texts = [(finished / "report.html"), (finished / "verify" / "unlearning_report.json")]
    texts += [
        path
        for path in published
        if path.name in ("README.md", "unlearning_report.json", "report.html", "config.json")
    ]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert not [name for name in names if name in text], path


def test_a_second_run_repeats_nothing(finished, capsys):
    before = files(finished)
    code = main(["run", str(finished.parent / "tiny.yaml"), "--output-dir", str(finished), "--workers", "0"])
    capsys.readouterr()
    assert code in (0, 1)
    after = files(finished)
    redone = {name for name in after if after[name] != before.get(name)}
    written_anew = ("report.html", "timings.json", "release.json", "/publish", "/plots/")
    assert not [name for name in redone if not any(part in name for part in written_anew)]


def test_published_folders_load_with_stock_transformers(finished):
    for name in ("publish", "publish-bnb-nf4"):
        model = AutoModelForCausalLM.from_pretrained(finished / name)
        assert model.config.hidden_size == 64


def test_check_accepts_what_was_published_and_names_what_was_changed(finished, tmp_path, capsys):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished / "publish", folder)
    assert main(["check", str(folder), "--integrity-only"]) == 0
    status = load_report(folder / "unlearning_report.json")["verdict"]["status"]
    assert main(["check", str(folder)]) == (0 if status == "passed" else 1)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    capsys.readouterr()
    assert main(["check", str(folder), "--integrity-only"]) == 1
    assert "model.safetensors" in capsys.readouterr().err
