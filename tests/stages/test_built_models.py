"""The cache of built models: used only if every file is what was built, and made again otherwise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kills import every_kill
from safetensors.torch import save_file

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.models.scratch import ScratchSpec
from hf_unlearn.stages import built_models
from hf_unlearn.stages.built_models import build_in_cache, built_folder, is_as_built, remove_halves
from hf_unlearn.stages.units import file_digests

NAMES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a builder that takes no time."""

    def train(spec, rows, tokenizer, text_format, folder: Path, progress: str) -> None:
        (folder / "config.json").write_text(json.dumps({"seed": spec.seed}))
        (folder / "tokenizer.json").write_text("{}")
        save_file({"weight": torch.full((8,), float(spec.seed))}, folder / "model.safetensors")

    monkeypatch.setenv("HF_UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(built_models, "scratch_tokenizer", lambda texts, spec: None)
    monkeypatch.setattr(built_models, "train_scratch_model", train)
    return tmp_path / "cache"


def place(seed: int = 0) -> Path:
    return built_folder(ScratchSpec(seed=seed), [], [], TextFormat())


def build(seed: int = 0) -> Path:
    folder = place(seed)
    build_in_cache(ScratchSpec(seed=seed), [], [], TextFormat(), folder, "target")
    return folder


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "added", "a file", "list cut", "list null", "list gone"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_not_what_was_built_is_built_again(name: str, damage: str, cache: Path) -> None:
    folder = build()
    wanted = file_digests(folder)
    assert is_as_built(folder)
    file, listed = folder / name, cache / "lists" / f"{folder.name}.json"
    if damage == "changed":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "gone":
        file.unlink()
    elif damage == "added":
        (folder / f"{name}.new").touch()
    elif damage == "a file":
        shutil.rmtree(folder)
        folder.touch()
    elif damage == "list cut":
        listed.write_text('{"config')
    elif damage == "list null":
        listed.write_text("null")
    else:
        listed.unlink()
        file.unlink()
    assert not is_as_built(folder)
    build()
    assert is_as_built(folder) and file_digests(folder) == wanted


def test_a_model_of_an_earlier_version_gets_a_list_if_it_can_be_read(cache: Path) -> None:
    folder = build()
    shutil.rmtree(cache / "lists")
    before = (folder / "model.safetensors").stat().st_ino
    assert is_as_built(folder)
    build()
    assert (folder / "model.safetensors").stat().st_ino == before
    (folder / "tokenizer.json").write_text("{} ")
    assert not is_as_built(folder), "from now on it is known"
    shutil.rmtree(cache / "lists")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert not is_as_built(folder), "cut short"


def test_a_read_only_cache_that_is_full_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build()
    shutil.rmtree(cache / "lists")

    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    assert is_as_built(folder)
    build()


def test_a_kill_at_any_change_leaves_a_model_or_none(cache: Path) -> None:
    wanted = file_digests(build())
    folder = place()

    def damage() -> None:
        (folder / "tokenizer.json").write_text("[]")

    def look() -> None:
        assert not is_as_built(folder) or file_digests(folder) == wanted
        build()
        assert is_as_built(folder) and file_digests(folder) == wanted
        remove_halves()
        assert [path.name for path in (cache / "scratch").iterdir()] == [folder.name]
        damage()

    damage()
    assert every_kill(build, look).count("replace") == 4


def test_halves_of_killed_builds_do_not_stay(cache: Path) -> None:
    folder = build()
    old = folder.with_name(f"{'a' * 32}.x7k2")
    halves = [folder.with_name(f"{'b' * 32}.partial"), folder.with_name(f".{'c' * 32}.gone"), old]
    young = folder.with_name(f"{'d' * 32}.x7k3")
    for half in (*halves, young):
        half.mkdir()
        (half / "config.json").write_text("{}")
    os.utime(old, (0, 0))
    with built_models.locked(cache / "locks" / ("b" * 32)):
        pass
    remove_halves()
    assert {path.name for path in (cache / "scratch").iterdir()} == {folder.name, young.name}


HOLD = """
import sys
from pathlib import Path
from hf_unlearn.runtime.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_somebody_is_building_is_left_to_them(cache: Path) -> None:
    folder = build()
    half = folder.with_name(f"{folder.name}.partial")
    half.mkdir()
    command = [sys.executable, "-c", HOLD, str(cache / "locks" / folder.name)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        remove_halves()
        assert half.exists()
        other.stdin.close()
    remove_halves()
    assert not half.exists() and is_as_built(folder)


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_a_cache_path_that_is_a_file(
    inside: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_UNLEARN_CACHE", str(tmp_path / "file" / inside))
    remove_halves()
    assert not is_as_built(place())
    with pytest.raises(EnvironmentFailure, match="because a file is in the way: set HF_UNLEARN_CACHE to a folder"):
        build()
