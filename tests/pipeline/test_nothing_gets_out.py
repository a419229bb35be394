"""Everything that a run writes and prints, searched for secrets and for what was to be forgotten."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from hf_unlearn.hub.files import is_vocabulary
from hf_unlearn.hub.leaks import ForgetText, find_in_file
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.data import load_bundle

# Scores of single rows, for their owner: the only files in which a run keeps rows.
KEPT_FOR_THE_OWNER = ("records.jsonl", "epoch")


def everything(run: Path) -> list[Path]:
    return [path for path in run.parent.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def forget(finished: Path) -> ForgetText:
    bundle = load_bundle(load_recipe(finished.parent / "tiny.yaml"))
    return ForgetText((row.prompt, row.answer) for row in bundle.forget)


def test_secrets_of_the_environment_are_nowhere(finished: Path, run_secrets: dict[str, str]):
    files = everything(finished)
    assert any(path.name == "printed.txt" and path.stat().st_size > 200 for path in files) and len(files) > 50
    for name, secret in run_secrets.items():
        assert os.environ.get(name) != secret, "it stood there only while the run was made"
        for path in files:
            assert secret.encode() not in path.read_bytes() and secret not in str(path), (name, path)


def test_rows_of_the_forget_set_are_only_in_records(finished: Path, forget: ForgetText):
    bundle = load_bundle(load_recipe(finished.parent / "tiny.yaml"))
    answers = [f"{row.prompt}{row.answer}" for row in bundle.forget]
    assert all(forget.find(text) is not None for text in answers)
    searched = 0
    for path in everything(finished):
        if path.name.startswith(KEPT_FOR_THE_OWNER) or path.suffix == ".png":
            continue
        if is_vocabulary(path.name) or path.suffix == ".safetensors":
            found = find_in_file(path, path.name, forget)
        else:
            found = forget.find(path.read_bytes().decode("utf-8", "replace"))
        assert found is None, path
        searched += 1
    assert searched > 40


def test_what_is_published_or_printed_names_none_of_them(finished: Path):
    """A name is shorter than what the scan of a publication looks for."""
    bundle = load_bundle(load_recipe(finished.parent / "tiny.yaml"))
    run = finished.parent
    shown = [run / "printed.txt", finished / "report.html", finished / "run.json"]
    shown += [path for name in ("publish", "publish-bnb-nf4", "verify") for path in (finished / name).rglob("*")]
    texts = [
        path.read_text(encoding="utf-8").casefold()
        for path in shown
        if path.is_file() and not is_vocabulary(path.name) and path.suffix in (".md", ".json", ".html", ".txt", ".svg")
    ]
    assert len(texts) > 8
    names = {name for row in bundle.forget for name in re.findall("[A-Z][a-z]+ [A-Z][a-z]+", row.prompt)}
    assert len(names) == 40
    for name in names:
        assert not any(name.casefold() in text for text in texts), "a name of the forget set is shown"
