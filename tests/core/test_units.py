"""Units of work are finished or not there."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from hf_unlearn.errors import RequestError
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


def test_a_request_can_be_mended_in_a_folder_in_which_nothing_was_made(tmp_path):
    claim_output_dir(tmp_path, "first", {"seed": 0})
    claim_output_dir(tmp_path, "first", {"seed": 1})
    assert json.loads((tmp_path / "run.json").read_text())["recipe"] == {"seed": 1}


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
