"""The page on verified loading: its code runs, its signature is one, its table of promises is kept elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_pages import load_script

from hf_unlearn.cli.main import main
from hf_unlearn.verification.report_file import load_report


@pytest.fixture
def published(root: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with made-up scores that pass, as ``org/model`` in the folder that is worked in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    script = load_script(root / "benchmarks" / "loading_cost.py")
    out = tmp_path / "org" / "model"
    out.parent.mkdir()
    script.publish(tiny_folder, out)
    return out


def test_the_python_of_the_page_runs(root: Path, published: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("OpenSSL", reason="model-signing imports pyOpenSSL")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    (tmp_path / "publisher.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert main(["sign", "org/model", "--private-key", "key.pem"]) == 0
    names: dict[str, object] = {}
    page = (root / "docs" / "verified-loading.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    assert len(blocks) == 2
    capsys.readouterr()
    for block in blocks:
        exec(compile(block, "verified-loading.md", "exec"), names)
    digest = load_report(published / "unlearning_report.json")["digest"]
    assert capsys.readouterr().out.split() == ["None", "passed", "publisher.pub", digest]
    assert type(names["model"]).__name__ == "LlamaForCausalLM" and names["tokenizer"] is not None
    assert main(["check", "org/model", "--trusted-key", "publisher.pub", "--report-digest", digest]) == 0


def test_the_benchmark_lays_out_a_cache_that_loads(
    root: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its figures would be about something else."""
    from huggingface_hub import constants

    from hf_unlearn.hub.verified import check

    script = sys.modules["repository_loading_cost"]
    snapshot = script.lay_out(published, tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = check(script.REPO)
    assert result.intact and result.status == "passed" and result.commit == script.COMMIT
    assert result.folder == snapshot and (snapshot / "model.safetensors").is_symlink()
    times = {"plain": [1.0], "hash": [2.0], "verified": [5.5], "remembered": [1.1], "bytes": [2e9]}
    cells = [cell.strip() for cell in script.row(1, json.loads(json.dumps(times))).split("|")]
    assert cells[1:-1] == ["2.00 GB in 1 file", "1.00 s", "2.00 s (1.0 GB/s)", "5.50 s", "**1.10**", "1.10 s", "1.10"]
