"""Code in the pages runs: the README's on a tiny model, CONTRIBUTING's files put into their packages."""

from __future__ import annotations

import importlib
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.base import Attacked
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.evaluation.metrics import METRICS, apply_metrics
from hf_unlearn.evaluation.records import ScoredRow
from hf_unlearn.hub.folders import publish_to_folder
from hf_unlearn.hub.metadata import CardWords
from hf_unlearn.losses import FORGET_LOSSES
from hf_unlearn.losses.base import LabelScores
from hf_unlearn.quantization import FORMATS, export_format
from hf_unlearn.registry import Registry
from hf_unlearn.verification.build_report import Candidate, Findings, RunFacts, build_report
from hf_unlearn.verification.digests import folder_digests
from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.report import ModelInfo, SetInfo
from hf_unlearn.verification.scores import FactScores, ScoreKey, ScoreTable
from hf_unlearn.verification.verdict import judge

REGISTRIES: dict[str, Registry[Any]] = {
    "hf_unlearn.losses.forget": FORGET_LOSSES,
    "hf_unlearn.quantization": FORMATS,
    "hf_unlearn.attacks": ATTACKS,
    "hf_unlearn.evaluation.metrics": METRICS,
}


@pytest.fixture
def added(examples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Registry]]:
    """Every example file in its package, found the way the package finds its own files; gone again afterwards."""
    modules = []
    for file, text in examples.items():
        path = Path(file)
        package = ".".join(path.parent.parts)
        folder = tmp_path / package
        folder.mkdir()
        (folder / path.name).write_text(text)
        registry = REGISTRIES[package]
        registry.entries()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_loaded", False)
        where = importlib.import_module(package)
        monkeypatch.setattr(where, "__path__", [*where.__path__, str(folder)])
        modules.append((where, path.stem))
    importlib.invalidate_caches()
    yield REGISTRIES
    for where, name in modules:
        sys.modules.pop(f"{where.__name__}.{name}", None)
        if hasattr(where, name):
            delattr(where, name)


def test_python_blocks_compile(python_block):
    compile(python_block.text, python_block.label, "exec")


def test_contributing_shows_one_of_each(examples):
    assert sorted(".".join(Path(file).parent.parts) for file in examples) == sorted(REGISTRIES)


def test_the_example_files_are_not_there_yet(examples, root):
    for file in examples:
        assert not (root / file).exists(), f"{file} exists: show another example"


def test_example_loss(added):
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    loss = added["hf_unlearn.losses.forget"].get("unlikelihood").value()
    result = loss(LabelScores(logits, labels, torch.tensor([0, 0]), 1))
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        expected -= math.log(1 - math.exp(row[label]) / sum(math.exp(value) for value in row))
    assert result.total.item() == pytest.approx(expected, rel=1e-12)
    assert result.count.item() == loss.count(torch.tensor([[-100, 0, 1]])).item() == 2


def test_example_loss_can_be_named_in_a_configuration(added, tmp_path):
    from hf_unlearn import UnlearnConfig

    config = UnlearnConfig(output_dir=str(tmp_path), loss_type="unlikelihood", report_to="none")
    assert type(config.build_forget_loss()).__name__ == "UnlikelihoodLoss"


def test_example_format(added, tiny_folder, tmp_path):
    from safetensors.torch import load_file

    info = export_format("fp32", tiny_folder, tmp_path / "fp32")
    assert info.bits == 32 and info.reload_error <= info.tolerance
    source, written = (load_file(folder / "model.safetensors") for folder in (tiny_folder, tmp_path / "fp32"))
    assert source.keys() == written.keys()
    assert all(torch.equal(written[name], source[name].float()) for name in source)


def test_example_metric(added):
    rows = [
        ScoredRow("a", "a", "a", "forget", logps=(math.log(0.25), -1.0)),
        ScoredRow("b", "b", "b", "forget"),
    ]
    first, second = apply_metrics(rows, ("first_token",))
    assert first.values["first_token"] == pytest.approx(0.25)
    assert "first_token" not in second.values


def test_example_attack(added, tiny_folder, tmp_path):
    from hf_unlearn.runtime.strict_yaml import Located, build

    settings = Located({"factors": Located([Located(1.0, "here"), Located(0.5, "here")], "here")}, "here")
    attack = build(added["hf_unlearn.attacks"].get("shrink").value, settings, "attack.shrink")
    row = Example("f0", "When was Ada Kwon born?", " In 1962.", "ada", "ada")
    rows = RowSet((row,), (row,))
    bundle = DataBundle(rows, rows)
    folders = {}
    for job in attack.plan(bundle):
        folders[job] = tmp_path / job
        folders[job].mkdir()
        attack.run_job(job, Attacked(tiny_folder, tiny_folder, bundle, TextFormat(), ("probability",)), folders[job])
    alone = {job: attack.collect({job: folder}, ("probability",)) for job, folder in folders.items()}
    values = {job: result.scores["probability"].mean for job, result in alone.items()}
    assert values["factor1"] != values["factor0.5"]
    best = attack.collect(folders, ("probability",))
    assert best.scores["probability"].mean == max(values.values())
    assert attack.budget(bundle)["run_folds"] == 1


def test_readme_python_runs(readme_python, tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").symlink_to(tiny_folder)
    publish(tiny_folder, tmp_path / "runs" / "quickstart" / "publish")
    names: dict[str, Any] = {}
    for text in readme_python:
        exec(compile(text, "README.md", "exec"), names)
    assert (tmp_path / "unlearned" / "model.safetensors").is_file()
    assert capsys.readouterr().out.splitlines()[-1].startswith("failed ")
    assert type(names["model"]).__name__ == "LlamaForCausalLM"


def publish(source: Path, out: Path) -> None:
    """Publish a model with made-up scores; its verdict is *failed*."""
    table = ScoreTable()
    levels = {"target": 0.9, "npo": 0.8, "never_knew": 0.1}
    for model, level in levels.items():
        for split in ("forget", "retain"):
            rng = random.Random(f"{model}{split}")
            mean = 0.9 if split == "retain" else level
            values = {f"{split}{number}": mean + rng.uniform(-0.05, 0.05) for number in range(40)}
            facts = FactScores(values, {name: name for name in values})
            table.add(ScoreKey(model, "identity", split, "probability"), facts)
    gate = Gate(metrics=("probability",), formats=(), attacks=(), draws=200)
    report = build_report(
        Findings(table, gate, [judge(table, "npo", gate)], ["npo"]),
        Candidate("npo", {"identity": folder_digests(source)}, {"loss_type": "npo"}),
        RunFacts(
            name="quickstart",
            created="2026-01-02T03:04:05+00:00",
            target=ModelInfo(description="tiny model"),
            never_knew=ModelInfo(description="tiny model"),
            data={"forget": SetInfo(40, 40, "c" * 64)},
        ),
    )
    out.parent.mkdir(parents=True)
    words = CardWords(title="Tiny", removed="nothing that was ever there")
    publish_to_folder(source, {}, report, words, out_main=out, out_variants={})
