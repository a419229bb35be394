"""Processes on several machines must see one folder, or what one writes the others miss."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.runtime import shared_folder
from hf_unlearn.runtime.shared_folder import Look, check_shared, look, refuse_unshared


def test_one_folder_is_made_once(tmp_path: Path) -> None:
    looks = [look(tmp_path / "file") for _ in range(3)]
    assert [each.found for each in looks] == ["made", "there", "there"]
    refuse_unshared(tmp_path, looks)


def test_folders_that_only_have_the_same_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    looks = [look(tmp_path / name / "file") for name in ("a", "b")]
    with pytest.raises(EnvironmentFailure, match=r"not the same folder .* could be created 2 times, .*all machines"):
        refuse_unshared(tmp_path, looks)


def test_a_folder_that_a_machine_does_not_see(tmp_path: Path) -> None:
    looks = [Look("node1", "made"), Look("node2", "no folder")]
    assert look(tmp_path / "nowhere" / "file", patience=0).found == "no folder"
    with pytest.raises(EnvironmentFailure, match=f"node2 cannot see {tmp_path}, which the first process made"):
        refuse_unshared(tmp_path, looks)


def test_a_folder_that_is_seen_late(tmp_path: Path) -> None:
    made = threading.Timer(0.2, (tmp_path / "late").mkdir)
    made.start()
    assert look(tmp_path / "late" / "file", patience=30).found == "made"
    made.join()


def test_all_processes_ask_together_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_shared(tmp_path / "one process asks nobody")
    rounds = iter([["token", "other"], [Look("here", "made"), Look("there", "there")]])
    monkeypatch.setattr(shared_folder, "world_size", lambda: 2)
    monkeypatch.setattr(shared_folder, "gather", lambda own: next(rounds))
    check_shared(tmp_path)
    assert not os.listdir(tmp_path) and next(rounds, None) is None
