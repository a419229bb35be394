"""A disk that fills up in any stage: exit code 3, nothing half-written, and the same report once there is room."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from adopted_runs import without_stage
from tiny_recipe import comparable, run

STAGES = ("train", "export", "evaluate", "attack", "verify", "publish")
# Bytes left when each stage begins: less than what it writes.
ROOM = {"train": 300_000, "export": 80_000, "evaluate": 8_000, "attack": 4_000, "publish": 100_000}


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Writing beyond this fails with EFBIG, as a full disk does with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def finished_units(output_dir: Path) -> set[Path]:
    """Folders with a manifest; none of them is half-built."""
    return {path.parent for path in output_dir.rglob("manifest.json") if ".partial" not in str(path)}


@pytest.mark.parametrize(("stage", "size"), [("train", 200_000), ("export", 60_000), ("evaluate", 3_000)])
def test_files_that_may_not_grow(stage, size, recipe, finished, refused, tmp_path):
    out = without_stage(finished, tmp_path / "run", stage)
    before = finished_units(out)
    with files_no_larger_than(size):
        sentence = refused(3, "run", recipe, "--output-dir", out, "--workers", 0)
    assert sentence.endswith(f"then run the same command again; everything finished in {out} is kept")
    assert finished_units(out) >= before
    assert {path.name for path in out.rglob("*.partial")} <= {"train.partial"}
    assert run(recipe, out) == 1
    assert comparable(out) == comparable(finished)
    assert not list(out.rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, where the machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    # Detached, because model files stay mapped into memory for a while.
    ctypes.CDLL(None).umount2(os.fsencode(folder), 2)


def fill(disk: Path, leave: int) -> Path:
    """One file that takes all but some bytes."""
    room = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(b"\0" * max(0, room.f_bavail * room.f_frsize - leave))
    return filler


def test_a_disk_that_is_full_in_every_stage(recipe, finished, refused, small_disk):
    out = small_disk / "run"
    for stage in STAGES:
        if stage in ROOM:
            filler = fill(small_disk, ROOM[stage])
            sentence = refused(3, stage, recipe, "--output-dir", out, "--workers", 0)
            assert "disk is full" in sentence or "No space left" in sentence
            assert {path.name for path in out.rglob("*.partial")} <= {"train.partial"}
            filler.unlink()
        assert run(recipe, out, command=stage) == (1 if stage in ("verify", "publish") else 0)
    assert comparable(out) == comparable(finished)
    assert not list(out.rglob("*.partial"))


def test_a_full_disk_where_models_are_built(recipe, refused, small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_UNLEARN_CACHE", str(small_disk / "cache"))
    fill(small_disk, 100_000)
    sentence = refused(
        3, "run", recipe, "--output-dir", tmp_path / "run", "--workers", 0, "model.scratch.epochs=1", "name=x"
    )
    assert sentence.startswith("the disk is full: make room")
    # Leases that were given back stay.
    left = [path for path in (small_disk / "cache").rglob("*") if path.is_file() and path.stat().st_size]
    assert all(path.parent.name == "locks" and path.name.endswith(".free") for path in left)
