"""Several processes of one launch, and several that each believe to be the first: one publication."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import Hub

from hf_unlearn.cli.main import main


def test_only_the_first_process_publishes(here: Hub, run_folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["publish", str(run_folder), "--repo-id", "owner/tiny"]) == 0
    assert not here.requests and capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert main(["publish", str(run_folder), "--repo-id", "owner/tiny"]) == 0
    assert set(here.repos) == {"owner/tiny", "owner/tiny-bnb-nf4"}


def test_two_that_both_believe_to_be_the_first(hub: Hub, passed_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(passed_run, tmp_path / "run")
    command = [sys.executable, "-m", "hf_unlearn", "publish", str(run), "--repo-id", "owner/tiny", "--public"]
    environment = {**hub.environment(tmp_path / "home", hub.write_token), "RANK": "0", "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert hub.count("POST .*/commit/") == hub.count("POST .*/repos/create") == 2
    assert [len(repo.log()) for repo in hub.repos.values()] == [1, 1]
    assert sorted(out.count("already there") for out, _ in said) == [0, 2]
    assert all(hub.write_token not in text for pair in said for text in pair)


@pytest.fixture
def other_machine(passed_run: Path, tmp_path: Path) -> Path:
    """The same run in a folder of its own, where the lock of the first is not seen."""
    return Path(shutil.copytree(passed_run, tmp_path / "other"))


def test_two_machines_end_in_the_same_state(here: Hub, run_folder: Path, other_machine: Path, capsys) -> None:
    """The other one publishes in the middle of ours: its commit is found to be what we were about to make."""
    here.fault(
        "POST .*/owner/tiny/commit/",
        before=lambda hub: main(["publish", str(other_machine), "--repo-id", "owner/tiny"]),
    )
    assert main(["publish", str(run_folder), "--repo-id", "owner/tiny"]) == 0
    assert [len(repo.log()) for repo in here.repos.values()] == [1, 1]
