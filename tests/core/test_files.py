"""Files and folders are there whole or not at all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_unlearn.runtime.files import (
    link_or_copy,
    open_private,
    whole_file,
    whole_folder,
    write_atomically,
    write_private,
)
from hf_unlearn.runtime.locks import locked


def test_a_file_is_replaced_in_one_move(tmp_path):
    path = tmp_path / "new" / "kept.json"
    write_atomically(path, "old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [item.name for item in path.parent.iterdir()] == ["kept.json"]


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "kept.json"
    write_atomically(path, "old")
    with pytest.raises(OSError, match="disk"), whole_file(path) as partial:
        partial.write_text("half")
        raise OSError("disk")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["kept.json"]


def test_what_a_killed_process_left_is_not_built_on(tmp_path):
    path = tmp_path / "kept"
    left = tmp_path / "kept.partial"
    left.write_text("half")
    left.chmod(0o644)
    with whole_file(path) as partial:
        assert partial == left
        partial.touch(0o600)
    assert path.read_text() == "" and path.stat().st_mode & 0o777 == 0o600
    left.mkdir()
    (left / "half").write_text("x")
    with whole_folder(tmp_path / "folder", left) as work:
        (work / "whole").write_text("y")
    assert [item.name for item in (tmp_path / "folder").iterdir()] == ["whole"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    folder = tmp_path / "folder"
    for name in ("old", "new"):
        with whole_folder(folder) as work:
            (work / name).touch()
    assert [item.name for item in folder.iterdir()] == ["new"]
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as work:
        (work / "half").touch()
        raise KeyboardInterrupt
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]
    assert [item.name for item in folder.iterdir()] == ["new"]


def test_a_second_name_or_a_copy(tmp_path, monkeypatch):
    source = tmp_path / "weights"
    source.write_text("w")
    link_or_copy(source, tmp_path / "a" / "b" / "linked")
    assert (tmp_path / "a" / "b" / "linked").samefile(source)

    def refuse(*names):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    link_or_copy(source, tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == "w" and not (tmp_path / "copied").samefile(source)


HOLD = """
import sys
from pathlib import Path
from hf_unlearn.runtime.locks import locked
with locked(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_who_waits_says_so_and_gets_the_lock_of_one_that_was_killed(tmp_path):
    file = tmp_path / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "True\n"
    with locked(file) as mine:
        assert not mine
    said = []

    def end_holder():
        said.append("waiting")
        holder.kill()

    with locked(file, before_waiting=end_holder) as mine:
        assert mine
    holder.wait()
    assert said == ["waiting"]
    with locked(file, before_waiting=end_holder) as mine:
        assert mine
    assert said == ["waiting"]


def test_an_error_of_the_block_gives_the_lock_back(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / ".lock"):
        raise ZeroDivisionError
    with locked(tmp_path / ".lock") as mine:
        assert mine


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / ".lock"):
        pass


def test_what_only_its_owner_may_read(tmp_path):
    """Rows, answers and salts; also where an earlier version left a file that all can read."""
    path = tmp_path / "records.jsonl"
    for before in (None, 0o644):
        if before is not None:
            path.chmod(before)
        with open_private(path) as file:
            file.write("row")
        assert path.stat().st_mode & 0o777 == 0o600
    write_private(path, "salt")
    assert path.read_text() == "salt" and path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["records.jsonl"]
