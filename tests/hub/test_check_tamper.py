"""Every file of a published model, changed, removed and added."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.hub.check import check_files, check_folder
from hf_unlearn.verification.digests import list_files
from hf_unlearn.verification.report_file import canonical, seal

REPORT = "unlearning_report.json"


def named(folder: Path) -> list[str]:
    return [problem.split(":")[0] for problem in check_folder(folder).problems]


def test_an_untouched_folder_is_intact(passed, failed) -> None:
    for made, status in ((passed, "passed"), (failed, "failed")):
        for folder in (made.main, made.variant):
            result = check_folder(folder)
            assert result.intact and result.status == status and result.report is not None


def test_one_byte_of_any_file(copied: Path) -> None:
    for name in list_files(copied)[0]:
        path = copied / name
        data = path.read_bytes()
        for place in sorted({0, 1, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :])
            assert named(copied) == [name], (name, place)
        path.write_bytes(data)
    assert check_folder(copied).intact


def test_every_file_cut_grown_emptied_removed(copied: Path) -> None:
    for name in list_files(copied)[0]:
        path = copied / name
        data = path.read_bytes()
        for changed in (data[:-1], data + b"\n", b" " + data, b""):
            path.write_bytes(changed)
            assert named(copied) == [name], name
        path.unlink()
        assert named(copied) == [name]
        assert "missing" in check_folder(copied).problems[0]
        path.write_bytes(data)
    assert check_folder(copied).intact


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "pytorch_model.bin",
        ".hidden",
        "original/model.safetensors",
        "plots/second.png",
        "plots/.gitattributes",
    ],
)
def test_an_added_file(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_bytes(b"x")
    result = check_folder(copied)
    assert f"{name}: was added, the report does not know it" in result.problems
    assert set(named(copied)) == {name}


def test_links_in_place_of_files(copied: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("model.safetensors", REPORT):
        shutil.move(copied / name, outside / name)
        (copied / name).symlink_to(outside / name)
        assert f"{name}: is a link, and a published folder holds only files" in check_folder(copied).problems
        (copied / name).unlink()
        shutil.move(outside / name, copied / name)
    (copied / "more").symlink_to(outside)
    assert named(copied) == ["more"]
    (copied / "more").unlink()
    (copied / "same.safetensors").symlink_to(copied / "model.safetensors")
    assert named(copied) == ["same.safetensors"]


def test_a_pipe_is_not_read(copied: Path) -> None:
    (copied / "config.json").unlink()
    os.mkfifo(copied / "config.json")
    assert set(named(copied)) == {"config.json"}


def test_files_that_swap_places(copied: Path) -> None:
    one, two = copied / "config.json", copied / "generation_config.json"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert named(copied) == ["config.json", "generation_config.json"]


def test_a_report_sealed_again_still_has_to_fit(copied: Path) -> None:
    """Someone who knows the format swaps the weights and writes the new digests: the scores are of other weights."""
    path = copied / REPORT
    report = json.loads(path.read_bytes())
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    import hashlib

    report["files"]["model.safetensors"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    path.write_bytes(canonical(seal(report)))
    assert check_folder(copied).problems == ("model.safetensors: is not a file whose scores are in the report",)
    report["format"] = None
    path.write_bytes(canonical(seal(report)))
    assert named(copied) == [REPORT]
    report["format"] = "identity"
    report["verdict"]["status"] = "certified"
    path.write_bytes(canonical(seal(report)))
    assert named(copied) == [REPORT] and check_folder(copied).status is None


def test_a_listed_pickle_is_still_refused(copied: Path) -> None:
    import hashlib

    path = copied / REPORT
    report = json.loads(path.read_bytes())
    (copied / "pytorch_model.bin").write_bytes(b"x")
    report["files"]["pytorch_model.bin"] = hashlib.sha256(b"x").hexdigest()
    path.write_bytes(canonical(seal(report)))
    assert check_folder(copied).problems == ("pytorch_model.bin: is of a type that is never published",)


def test_the_other_format_is_not_this_one(passed, tmp_path: Path) -> None:
    """The variant's weights under the main report."""
    mixed = Path(shutil.copytree(passed.main, tmp_path / "mixed"))
    shutil.copyfile(passed.variant / "model.safetensors", mixed / "model.safetensors")
    assert named(mixed) == ["model.safetensors"]


def test_ignored_and_linked_files_of_a_cache(copied: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for name in list_files(copied)[0]:
        blob = blobs / name.replace("/", "_")
        shutil.move(copied / name, blob)
        (copied / name).symlink_to(blob)
    (copied / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert check_files(copied, links_within=tmp_path, ignored=frozenset({".gitattributes"})).intact
    assert not check_files(copied, links_within=tmp_path).intact
    assert not check_folder(copied).intact


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a folder"):
        check_folder(tmp_path / "none")
    with pytest.raises(RequestError, match="holds no published model"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert check_folder(tmp_path).problems == (f"{REPORT}: is missing",)
