"""Killed at every change to files: all is old or new, whole, or not there, and the next attempt ends well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from kills import Killed, every_kill, killed_at

from hf_unlearn.evaluation.records import ScoredRow, read_records, write_records
from hf_unlearn.reporting.html import write_html
from hf_unlearn.runtime.files import (
    replace_folder,
    sweep,
    whole_file,
    whole_folder,
    write_atomically,
    write_private,
)
from hf_unlearn.stages.units import Unit, claim_output_dir
from hf_unlearn.verification.digests import folder_digests


def test_the_stand_in_kills_once_and_for_all(tmp_path: Path):
    """Nothing that runs after the kill changes a file any more: no ``finally`` tidies up."""

    def write() -> None:
        try:
            (tmp_path / "one").write_text("one")
            (tmp_path / "two").write_text("two")
        finally:
            (tmp_path / "three").write_text("three")

    left = []
    for event in range(4):
        with killed_at(event) as process, pytest.raises(Killed):
            write()
        assert process.dead and len(process.kinds) == event
        left.append({path.name: path.read_text() for path in tmp_path.iterdir()})
    assert left == [{}, {"one": "o"}, {"one": "one"}, {"one": "one", "two": "t"}]


@pytest.mark.parametrize("write", [write_atomically, write_private])
def test_a_file(write, tmp_path: Path):
    path = tmp_path / "kept.json"
    seen = set()

    def look() -> None:
        seen.add(path.read_text())
        write(path, "a new one")
        assert [item.name for item in tmp_path.iterdir()] == ["kept.json"] and path.read_text() == "a new one"
        path.write_text("an old one")

    path.write_text("an old one")
    kinds = every_kill(lambda: write(path, "a new one"), look)
    assert seen == {"an old one", "a new one"} and {"open", "write", "fsync", "replace"} <= set(kinds)


def fill(folder: Path, text: str) -> None:
    for name in ("one", "deep/two", "deep/three"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("first", [True, False])
def test_a_folder(first: bool, tmp_path: Path):
    """A first one, and one that takes the place of another."""
    path, seen = tmp_path / "kept", set()
    fill(_made(tmp_path / "new"), "new")
    new = folder_digests(tmp_path / "new")
    fill(_made(tmp_path / "old"), "old")
    old = folder_digests(tmp_path / "old")

    def build() -> None:
        with whole_folder(path) as work:
            fill(work, "new")

    def look() -> None:
        found = folder_digests(path) if path.exists() else None
        assert found in (old, new, None)
        seen.add("old" if found == old else "new" if found == new else None)
        build()
        assert folder_digests(path) == new
        assert {item.name for item in tmp_path.iterdir()} == {"kept", "new", "old"}
        prepare()

    def prepare() -> None:
        shutil.rmtree(path, ignore_errors=True)
        if not first:
            fill(_made(path), "old")

    prepare()
    kinds = every_kill(build, look)
    assert seen == ({None, "new"} if first else {"old", None, "new"}) and len(kinds) > 8


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("keep_partial", [False, True])
def test_a_unit(keep_partial: bool, tmp_path: Path):
    """It is finished with what was written, or it is made again; one of other inputs is never taken for it."""
    old = Unit(tmp_path / "unit", {"seed": 0}, keep_partial)
    new = Unit(tmp_path / "unit", {"seed": 1}, keep_partial)
    seen = set()

    def look() -> None:
        assert not (old.done and new.done)
        state = "old" if old.done else "new" if new.done else None
        seen.add(state)
        if state is not None:
            unit = old if state == "old" else new
            unit.checked()
            assert {(unit.path / name).read_text() for name in ("one", "deep/two", "deep/three")} == {state}
        new.run(lambda folder: fill(folder, "new"))
        assert new.checked().keys() == {"one", "deep/two", "deep/three"}
        assert [item.name for item in tmp_path.iterdir()] == ["unit"]
        old.run(lambda folder: fill(folder, "old"))

    old.run(lambda folder: fill(folder, "old"))
    kinds = every_kill(lambda: new.run(lambda folder: fill(folder, "new")), look)
    assert seen == {"old", None, "new"} and len(kinds) > 15


def test_the_run_file(tmp_path: Path):
    """The folder stays this recipe's, or nobody's: the same command is never refused."""
    folder = tmp_path / "run"

    def claim() -> None:
        claim_output_dir(folder, "first", {"seed": 0})

    def look() -> None:
        claim()
        assert json.loads((folder / "run.json").read_text())["name"] == "first"
        assert [item.name for item in folder.iterdir()] == ["run.json"]
        shutil.rmtree(folder)

    assert {"mkdir", "open", "write", "replace"} <= set(every_kill(claim, look))


def test_what_a_run_left_while_it_deleted_something(tmp_path: Path):
    for name in ("train", "export"):
        fill(_made(tmp_path / name), "old")
    fill(_made(tmp_path / "built"), "new")
    with killed_at(3), pytest.raises(Killed):
        replace_folder(tmp_path / "built", tmp_path / "train")
    assert any(item.name.endswith(".gone") for item in tmp_path.iterdir())
    sweep(tmp_path)
    assert not any(item.name.endswith(".gone") for item in tmp_path.iterdir())


def test_records(tmp_path: Path):
    """As they are written into a folder that is there already."""
    path = tmp_path / "records.jsonl"
    rows = [
        [ScoredRow(f"{n}", f"{n}", f"{n}", "forget", answer=answer) for n in range(3)] for answer in ("old", "new")
    ]

    def write(which: int) -> None:
        with whole_file(path) as partial:
            write_records(partial, rows[which])

    def look() -> None:
        assert read_records(path) in rows
        write(1)
        assert read_records(path) == rows[1] and [item.name for item in tmp_path.iterdir()] == ["records.jsonl"]
        assert path.stat().st_mode & 0o777 == 0o600
        write(0)

    write(0)
    every_kill(lambda: write(1), look)


def test_the_page_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.html"
    monkeypatch.setattr("hf_unlearn.reporting.html.render_html", lambda report: f"<html>{report['name']}</html>")

    def look() -> None:
        assert path.read_text() in ("<html>old</html>", "<html>new</html>")
        write_html({"name": "new"}, path)
        assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
        write_html({"name": "old"}, path)

    write_html({"name": "old"}, path)
    every_kill(lambda: write_html({"name": "new"}, path), look)
