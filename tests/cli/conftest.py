"""A recipe of one's own, one finished run of it, and what a refusal must look like."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from tiny_recipe import TINY, run

from hf_unlearn.cli.main import main

Refused = Callable[..., str]
MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``HF_HUB_OFFLINE=1``, which the libraries read when they are imported: nobody waits for a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def finished(made_once: MadeOnce, model_cache: Path) -> Path:
    """Output folder of a finished run; tests only read it."""

    def fill(folder: Path) -> None:
        path = folder / "tiny.yaml"
        path.write_text(TINY)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_UNLEARN_CACHE", str(folder / "cache"))
            assert run(path, folder / "run") == 1

    folder = made_once("finished-cli", fill)
    shutil.copytree(folder / "cache", model_cache, dirs_exist_ok=True)
    return folder / "run"


@pytest.fixture(scope="session")
def target(finished: Path) -> Path:
    """Folder of a model of the finished run, with its tokenizer; tests copy it."""
    return min((finished.parent / "cache" / "scratch").iterdir())


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail, and returns the one sentence it ends with."""

    def run_refused(code: int, *words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        return the_sentence(capsys.readouterr().err)

    return run_refused


def the_sentence(stderr: str) -> str:
    """The only line that is the command's own, or the head of a numbered list; it comes last, without a traceback."""
    lines = stderr.strip().splitlines()
    own = [line for line in lines if line.startswith("hf-unlearn: ")]
    assert "Traceback" not in stderr and len(own) == 1, stderr
    listed = lines[lines.index(own[0]) + 1 :]
    assert [line.split(".")[0].strip() for line in listed] == [str(n + 1) for n in range(len(listed))], stderr
    if listed:
        return " ".join([own[0].removeprefix("hf-unlearn: "), *listed])
    return own[0].removeprefix("hf-unlearn: ")
