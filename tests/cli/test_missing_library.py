"""A library that is not installed: said before any work, with the extra that brings it."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

from hf_unlearn.cli.main import main


@pytest.fixture
def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says that it has no such distribution."""
    found = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == "bitsandbytes":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


@pytest.mark.usefixtures("without_bitsandbytes")
def test_a_format_without_its_library(recipe, refused, tmp_path):
    sentence = refused(3, "run", recipe, "--output-dir", tmp_path / "run")
    assert sentence == (
        "format bnb-nf4 needs bitsandbytes, which is not installed: run  pip install 'hf_unlearn[quantization]'"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("without_bitsandbytes")
def test_other_formats_are_not_held_up(recipe, tmp_path, capsys):
    overrides = ["export.formats=[rtn-int4-g32]", "--workers", "0"]
    assert main(["train", str(recipe), "--output-dir", str(tmp_path / "run"), *overrides]) == 0
    assert main(["export", str(recipe), "--output-dir", str(tmp_path / "run"), *overrides]) == 0
    capsys.readouterr()
    assert main(["list", "formats", "--json"]) == 0
    status = {entry["name"]: entry["status"] for entry in json.loads(capsys.readouterr().out)}
    assert status["rtn-int4-g32"] == "installed"
    assert "pip install 'hf_unlearn[quantization]'" in status["bnb-nf4"]


def test_a_tracker_that_is_not_installed(recipe, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    sentence = refused(3, "run", recipe, "--output-dir", tmp_path / "run", "methods.0.report_to=wandb")
    assert sentence == "report_to: wandb is not installed: run  pip install wandb"
