"""Units of work are finished or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.runtime.environment import environment_failures
from hf_unlearn.stages.units import Unit, claim_output_dir, file_digests, fingerprint, output_lock


def write(text: str):
    return lambda folder: (folder / "result.txt").write_text(text)


def test_a_finished_unit_is_not_repeated(tmp_path):
    unit = Unit(tmp_path / "unit", {"seed": 0})
    unit.run(write("one"))
    unit.run(write("two"))
    assert (unit.path / "result.txt").read_text() == "one"
    assert unit.outputs() == file_digests(unit.path)


def test_other_inputs_make_it_again(tmp_path):
    Unit(tmp_path / "unit", {"seed": 0}).run(write("one"))
    changed = Unit(tmp_path / "unit", {"seed": 1})
    assert not changed.done
    with pytest.raises(RequestError, match="out of date"):
        changed.outputs()
    changed.run(write("two"))
    assert (changed.path / "result.txt").read_text() == "two"


def test_half_built_folders_are_not_results_and_are_cleared(tmp_path):
    unit = Unit(tmp_path / "unit", {})

    def stop(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unit.run(stop)
    assert not unit.done and not unit.path.exists()
    unit.run(write("whole"))
    assert [item.name for item in sorted(unit.path.iterdir())] == ["manifest.json", "result.txt"]


def test_a_resumable_unit_keeps_its_half_only_for_the_same_inputs(tmp_path):
    def stop(folder: Path) -> None:
        (folder / "checkpoint").write_text("state")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Unit(tmp_path / "unit", {"seed": 0}, keep_partial=True).run(stop)
    assert (Unit(tmp_path / "unit", {"seed": 0}, keep_partial=True).begin() / "checkpoint").exists()
    assert not (Unit(tmp_path / "unit", {"seed": 1}, keep_partial=True).begin() / "checkpoint").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    unit = Unit(tmp_path / "unit", {})

    def fill(folder: Path) -> None:
        (folder / "big.bin").write_bytes(b"x" * 100)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        unit.run(fill)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_belongs_to_one_recipe(tmp_path):
    claim_output_dir(tmp_path / "run", "first", {"seed": 0, "data": {"limit": 3}})
    (tmp_path / "run" / "train").mkdir()
    claim_output_dir(tmp_path / "run", "first", {"seed": 0, "data": {"limit": 3}})
    with pytest.raises(RequestError, match="belongs to the recipe 'first', not 'second'"):
        claim_output_dir(tmp_path / "run", "second", {"seed": 0})
    with pytest.raises(RequestError, match=r"other values \(data\.limit\)"):
        claim_output_dir(tmp_path / "run", "first", {"seed": 0, "data": {"limit": 4}})


def test_a_folder_of_a_tier_that_has_grown_since_goes_on(tmp_path):
    """An attack that is new in the tier is run in addition; whatever else differs is refused."""
    prune, noise, new = {"shares": [0.1]}, {"draws": 1}, {"template": "{prompt}"}
    before = {"attack": {"tier": "quick", "prune": prune, "noise": noise}, "gate": {"attacks": ["prune", "noise"]}}
    now = {
        "attack": {"tier": "quick", "prune": prune, "noise": noise, "other-form": new},
        "gate": {"attacks": ["prune", "noise", "other-form"]},
    }
    claim_output_dir(tmp_path, "first", before)
    (tmp_path / "train").mkdir()
    changed = {**now, "attack": {**now["attack"], "prune": {"shares": [0.2]}}}
    with pytest.raises(RequestError, match=r"attack\.prune\.shares"):
        claim_output_dir(tmp_path, "first", changed)
    added = {**before, "attack": {**before["attack"], "relearn-all": {}}}
    with pytest.raises(RequestError, match=r"attack\.relearn-all"):
        claim_output_dir(tmp_path, "first", added)
    claim_output_dir(tmp_path, "first", now)
    assert json.loads((tmp_path / "run.json").read_text())["recipe"] == now
    with pytest.raises(RequestError, match=r"attack\.other-form"):
        claim_output_dir(tmp_path, "first", before)


def test_a_request_can_be_mended_in_a_folder_in_which_nothing_was_made(tmp_path):
    claim_output_dir(tmp_path, "first", {"seed": 0})
    claim_output_dir(tmp_path, "first", {"seed": 1})
    assert json.loads((tmp_path / "run.json").read_text())["recipe"] == {"seed": 1}


@pytest.mark.parametrize("half", ["", '{"name": "fir'])
def test_a_kill_while_the_run_file_is_written_does_not_close_the_folder(half, tmp_path):
    (tmp_path / "run.json.partial").write_text(half)
    claim_output_dir(tmp_path, "first", {"seed": 0})
    assert json.loads((tmp_path / "run.json").read_text())["name"] == "first"
    assert not (tmp_path / "run.json.partial").exists()


@pytest.mark.parametrize("content", [b"null", b"[]", b"\xff\x00", b"[" * 100_000, b""])
def test_a_damaged_run_file_is_told_in_one_sentence(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    (tmp_path / "train").mkdir()
    with pytest.raises(RequestError, match=r"run\.json is not readable"):
        claim_output_dir(tmp_path, "first", {"seed": 0})


def test_what_was_being_deleted_goes_with_the_next_run(tmp_path):
    claim_output_dir(tmp_path, "first", {"seed": 0})
    (tmp_path / "train.partial" / ".checkpoints.gone").mkdir(parents=True)
    (tmp_path / ".publish.gone").mkdir()
    claim_output_dir(tmp_path, "first", {"seed": 0})
    assert not list(tmp_path.rglob("*.gone"))


@pytest.mark.parametrize(
    "content",
    [
        *(b"null", b"[]", b"3", b"\x00\xff", b"[" * 100_000, b"", b'{"outputs": {}}'),
        *(b'{"inputs": "x", "outputs": 3}', b'{"inputs": 3, "outputs": {}}', b'{"inputs": "x", "outputs": {"a": 3}}'),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("keep_partial", [False, True])
def test_a_unit_with_a_damaged_manifest_is_made_again(content, keep_partial, tmp_path):
    unit = Unit(tmp_path / "unit", {"seed": 0}, keep_partial)
    unit.run(write("one"))
    (unit.path / "manifest.json").write_bytes(content)
    unit.partial.mkdir()
    (unit.partial / "manifest.json").write_bytes(content)
    assert not unit.done
    with pytest.raises(RequestError, match=r"not there yet|out of date"):
        unit.outputs()
    unit.run(write("two"))
    assert (unit.path / "result.txt").read_text() == "two" and unit.checked()


def test_a_file_where_a_unit_should_be(tmp_path):
    (tmp_path / "unit").write_text("a file")
    Unit(tmp_path / "unit", {}).run(write("one"))
    assert (tmp_path / "unit" / "result.txt").read_text() == "one"
    (tmp_path / "stage").write_text("a file")
    with pytest.raises(RequestError, match="lies in a file"):
        Unit(tmp_path / "stage" / "unit", {}).run(write("one"))


def test_a_unit_knows_whether_its_files_are_what_was_written(tmp_path):
    unit = Unit(tmp_path / "unit", {"seed": 0})
    unit.run(write("one"))
    assert unit.checked() == unit.outputs()
    for spoil, said in (
        (lambda: (unit.path / "result.txt").write_text("two"), r"result\.txt was changed"),
        (lambda: (unit.path / "result.txt").unlink(), r"result\.txt is gone"),
        (lambda: (unit.path / "added.txt").touch(), r"added\.txt was added"),
    ):
        spoil()
        with pytest.raises(RequestError, match=said):
            unit.checked()


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match=r"holds other files \(thesis\.tex\)"):
        claim_output_dir(tmp_path, "name", {})
    assert not (tmp_path / "run.json").exists()


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        output_lock(tmp_path),
        pytest.raises(RequestError, match="another run is using"),
        output_lock(tmp_path),
    ):
        pass
    with output_lock(tmp_path):
        pass


def test_fingerprint_ignores_order_of_keys_only():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    assert len(json.dumps(fingerprint({}))) == 66


def test_a_folder_in_a_unit_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    unit = Unit(tmp_path / "unit", {"seed": 0})
    unit.run(write("one"))
    hidden = unit.path / "hidden"
    hidden.mkdir()
    stock = os.scandir

    def refuse(path="."):
        if Path(path) == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stock(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with (
        pytest.raises(EnvironmentFailure, match=f"no permission to read or write .{hidden}"),
        environment_failures(tmp_path),
    ):
        unit.checked()


def test_files_of_a_unit_are_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power failure a name must not stand for files that were never written."""
    happened = []
    sync, replace = os.fsync, os.replace
    inode = {}

    def synced(handle):
        happened.append(os.fstat(handle).st_ino)
        return sync(handle)

    def renamed(source, target):
        inode.update((path.name, path.stat().st_ino) for path in Path(source).rglob("*") if path.is_file())
        happened.append("renamed")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)

    def build(folder: Path) -> None:
        (folder / "deep").mkdir()
        for name in ("one.txt", "deep/two.txt"):
            (folder / name).write_text(name)

    Unit(tmp_path / "unit", {}).run(build)
    before = set(happened[: happened.index("renamed")])
    assert {inode[name] for name in ("one.txt", "two.txt", "manifest.json")} <= before
