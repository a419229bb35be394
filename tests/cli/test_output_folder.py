"""The output folder: whose it is, who else is at work in it, and whether it can be written."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_recipe import TINY, run


def listing(folder: Path) -> dict[str, int]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".locks")
    return {str(path): path.stat().st_mtime_ns for path in paths}


def test_a_folder_of_another_recipe_or_of_this_one_with_other_values(recipe, finished, refused):
    before = listing(finished)
    sentence = refused(2, "run", recipe, "--output-dir", finished, "name=other")
    assert sentence == f"{finished} belongs to the recipe 'tiny', not 'other': choose another --output-dir"
    sentence = refused(2, "run", recipe, "--output-dir", finished, "gate.draws=300", "evaluate.generate_limit=3")
    assert "with other values (evaluate.generate_limit, gate.draws): choose another --output-dir" in sentence
    assert listing(finished) == before


def test_a_folder_that_holds_other_things(recipe, refused, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("years of work")
    sentence = refused(2, "run", recipe, "--output-dir", folder)
    assert sentence == (f"{folder} holds other files (chapter1.tex) and no run: choose an empty or new --output-dir")
    assert [path.name for path in folder.iterdir()] == ["chapter1.tex"]


def test_a_folder_whose_books_are_broken(recipe, refused, tmp_path):
    (tmp_path / "run" / "train").mkdir(parents=True)
    for text in ("{", "[]", "\x00"):
        (tmp_path / "run" / "run.json").write_text(text)
        assert "run.json is not readable" in refused(2, "run", recipe, "--output-dir", tmp_path / "run")


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_a_place_that_cannot_be_a_folder(inside, recipe, refused):
    sentence = refused(2, "run", recipe, "--output-dir", recipe / inside)
    assert "is in a file, not a folder: choose another --output-dir" in sentence
    assert recipe.read_text() == TINY
    sentence = refused(2, "run", recipe, "--output-dir", recipe.parent / ("x" * 300))
    assert "cannot be made (File name too long): choose another --output-dir" in sentence


def test_names_that_a_terminal_could_take_for_markup(recipe, tmp_path, capsys):
    assert run(recipe, tmp_path / "odd [red] [" / "x]", command="train") == 0
    assert run(recipe, tmp_path / "odd [red] [" / "x]", command="export") == 0
    capsys.readouterr()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_a_folder_without_rights_as_somebody_else(recipe, refused, tmp_path):
    """In this process: its effective user is nobody for the time of the command."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o755)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o005 != 0o005 and parent.is_relative_to("/tmp"):
            parent.chmod(0o755)
    os.seteuid(65534)
    try:
        sentence = refused(3, "run", recipe, "--output-dir", folder)
    finally:
        os.seteuid(0)
    assert sentence.startswith(f"no permission to read or write ({folder}")
    assert "choose another --output-dir" in sentence
    assert not [path for path in folder.iterdir() if path.name != ".locks"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights(recipe, refused, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    sentence = refused(3, "run", recipe, "--output-dir", folder)
    assert sentence.startswith(f"no permission to read or write ({folder}")


def test_a_second_run_waits_outside_and_ctrl_c_loses_nothing(recipe, finished, refused, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "hf_unlearn", "train", str(recipe), "--output-dir", str(out), "--workers", "1"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen_to_ctrl_c,
    )
    wait_for(out / "train.partial" / "checkpoints", process)
    os.killpg(process.pid, signal.SIGSTOP)  # or it could be done before the second one has looked
    sentence = refused(2, "run", recipe, "--output-dir", out)
    who = f"process {process.pid} on {platform.node()}"
    assert sentence == f"another run is using {out} ({who}): wait for it, or choose another --output-dir"

    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    os.killpg(process.pid, signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "hf-unlearn: stopped; run the same command again to continue"
    assert "Traceback" not in errors
    wait_until(lambda: not alive_in_group(process.pid))

    assert run(recipe, out, command="train") == 0
    weights = [folder / "train" / "model.safetensors" for folder in (out, finished)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not list(out.rglob("*.partial"))


def listen_to_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    wait_until(lambda: path.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive_in_group(group: int) -> list[str]:
    """Processes of a group that have not ended (those that ended and that nobody has asked for are ``Z``)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append(path.parent.name)
    return found
