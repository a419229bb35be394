"""A checkpoint counts by the list of its files, and is deleted under another name: none is taken in part."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hf_unlearn.runtime import files
from hf_unlearn.trainer.checkpoints import FILE_LIST, last_whole_checkpoint, remove_old_checkpoints, seal_checkpoint

NAMES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "parts/mean.pt")


class Killed(BaseException):
    """What stands for a kill: nothing catches it."""


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    for name in NAMES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f'{{"{name}": {step}}}')
    return path


@pytest.mark.parametrize("damage", ["gone", "changed", "added", "unlisted", "torn list", "null list"])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_in_part_is_no_checkpoint(name, damage, tmp_path):
    for step in (4, 8):
        seal_checkpoint(checkpoint(tmp_path, step))
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    newest = tmp_path / "checkpoint-8"
    if damage == "gone":
        (newest / name).unlink()
    elif damage == "changed":
        (newest / name).write_text("{}")
    elif damage == "added":
        (newest / f"{name}.new").touch()
    elif damage == "unlisted":
        (newest / FILE_LIST).unlink()
    else:
        (newest / FILE_LIST).write_text('{"model' if damage == "torn list" else "null")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not newest.exists()


def kill_at(event: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rename and removal of a file or folder counts as one event."""
    happened = 0

    def counted(real):
        def call(*arguments, **keywords):
            nonlocal happened
            if happened == event:
                raise Killed
            happened += 1
            return real(*arguments, **keywords)

        return call

    for name in ("replace", "unlink", "rmdir", "remove"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def test_a_kill_at_any_event_of_a_removal_leaves_whole_checkpoints_only(tmp_path):
    for event in range(100):
        folder = tmp_path / str(event)
        for step in (4, 8, 12):
            seal_checkpoint(checkpoint(folder, step))
        with pytest.MonkeyPatch.context() as patched:
            kill_at(event, patched)
            try:
                remove_old_checkpoints(folder, 2, None)
            except Killed:
                ended = False
            else:
                ended = True
        assert {path.name for path in folder.glob("checkpoint-*")} >= {"checkpoint-8", "checkpoint-12"}
        for path in folder.glob("checkpoint-*"):
            assert {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()} == {*NAMES, FILE_LIST}
        assert last_whole_checkpoint(folder) == folder / "checkpoint-12"
        remove_old_checkpoints(folder, 2, None)
        files.sweep(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-12", "checkpoint-8"]
        if ended:
            break
    assert ended and event > len(NAMES)


def test_a_kill_at_any_event_of_a_replacement_leaves_old_or_new_or_nothing(tmp_path):
    for event in range(100):
        folder = tmp_path / str(event)
        old, new = checkpoint(folder, 1), checkpoint(folder, 2)
        with pytest.MonkeyPatch.context() as patched:
            kill_at(event, patched)
            try:
                files.replace_folder(new, old)
            except Killed:
                ended = False
            else:
                ended = True
        if old.exists():
            held = {(old / name).read_text() for name in NAMES}
            assert held in ({f'{{"{name}": {step}}}' for name in NAMES} for step in (1, 2))
        if ended:
            break
        shutil.rmtree(new, ignore_errors=True)
        files.replace_folder(checkpoint(folder, 2), old)
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-1"]
    assert ended and event > len(NAMES)


def test_the_best_checkpoint_stays_and_counts(tmp_path):
    for step in (4, 8, 12, 100):
        checkpoint(tmp_path, step)
    remove_old_checkpoints(tmp_path, None, None)
    assert len(list(tmp_path.iterdir())) == 4
    remove_old_checkpoints(tmp_path, 2, str(tmp_path / "checkpoint-4"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-4"]
    remove_old_checkpoints(tmp_path, 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-100"]
