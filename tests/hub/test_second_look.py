"""After loading, a folder is looked at once more: contents, whatever way they were written, and everything in it."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_unlearn.errors import VerificationError
from hf_unlearn.hub import digest_cache
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.digest_cache import DigestMemory
from hf_unlearn.hub.verified import VerifiedModel, check
from hf_unlearn.verification.digests import FileStamp


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on the disk, and one on a file system that never moves the times of mapped files."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def flip_through_a_mapping(path: Path) -> FileStamp:
    """Change the last byte as a mapping does it; returns what the file system says of the file directly afterwards."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[-1] ^= 1
    return FileStamp.of(path.stat())


def loading(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object], after: Callable[[], object]) -> None:
    """Let something happen just before and just after transformers loads."""
    stock = AutoModelForCausalLM.from_pretrained

    def load(folder: str, **kwargs: object) -> object:
        before()
        model = stock(folder, **kwargs)
        after()
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)


def test_weights_changed_through_a_mapping_while_they_are_loaded(passed, place, monkeypatch) -> None:
    folder = Path(shutil.copytree(passed.main, place / "model"))
    weights = folder / "model.safetensors"
    loading(monkeypatch, lambda: flip_through_a_mapping(weights), lambda: None)
    with pytest.raises(VerificationError, match=r"model\.safetensors was changed while it was being loaded"):
        VerifiedModel.from_pretrained(folder)
    assert not check_folder(folder).intact


def test_a_mapping_moves_no_time_of_a_file_in_memory(place: Path) -> None:
    """Why the second look reads everything again."""
    if place.is_relative_to("/dev/shm"):
        (place / "file").write_bytes(b"12")
        before = FileStamp.of((place / "file").stat())
        assert flip_through_a_mapping(place / "file") == before
        assert (place / "file").read_bytes() == b"13"


def test_only_a_private_copy_is_what_was_hashed(passed, place, monkeypatch) -> None:
    """Changed before the load and changed back after it: no second look can see that."""
    folder = Path(shutil.copytree(passed.main, place / "model"))
    weights, tokens = folder / "model.safetensors", torch.tensor([[1, 4, 3]])
    expected = VerifiedModel.from_pretrained(folder, private_copy=True)(tokens).logits
    with monkeypatch.context() as patched:
        loading(patched, lambda: flip_through_a_mapping(weights), lambda: flip_through_a_mapping(weights))
        model = VerifiedModel.from_pretrained(folder, private_copy=True)
    assert torch.equal(model(tokens).logits, expected)
    assert check_folder(folder).intact


def test_remembered_digests_miss_mappings_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are off by default; what the documentation says is what happens."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory here")
    monkeypatch.setattr(digest_cache, "_SETTLED_SECONDS", -1)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        blob = Path(folder, "blob")
        blob.write_bytes(b"12")
        first = DigestMemory(Path(folder), tmp_path / "digests.json")
        known = first(blob)
        first.save()
        flip_through_a_mapping(blob)
        assert DigestMemory(Path(folder), tmp_path / "digests.json")(blob) == known
    page = (Path(__file__).parents[2] / "docs" / "verified-loading.md").read_text(encoding="utf-8")
    told = " ".join(page.partition("## Remembered digests")[2].split())
    assert "Writing through a memory mapping does not move the times" in told


@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe", "file in a folder"])
def test_what_appears_while_a_model_is_loaded(kind: str, copied: Path) -> None:
    result = check(copied)
    result.still_stands()
    added = copied / "added"
    if kind == "file":
        added.touch()
    elif kind == "folder":
        added.mkdir()
    elif kind == "link":
        added.symlink_to("/nowhere")
    elif kind == "pipe":
        os.mkfifo(added)
    else:
        added = copied / "plots" / "added"
        added.touch()
    for read_again in (True, False):
        with pytest.raises(VerificationError, match="added was changed while it was being loaded"):
            result.still_stands(read_again=read_again)


def test_what_goes_while_a_model_is_loaded(copied: Path) -> None:
    (copied / "empty").mkdir()
    result = check(copied)
    (copied / "empty").rmdir()
    with pytest.raises(VerificationError, match="empty was changed"):
        result.still_stands()


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A folder that nobody can list: root may list all, so the system's refusal is made here."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        stock = os.scandir

        def refuse(path: str | Path = ".") -> object:
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return stock(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return make


def test_a_folder_that_cannot_be_listed_is_not_intact(copied: Path, unlisted) -> None:
    unlisted(copied / "hidden")
    assert check_folder(copied).problems == ("hidden: cannot be listed (Permission denied)",)
    with pytest.raises(VerificationError, match="hidden: cannot be listed"):
        VerifiedModel.from_pretrained(copied)


def test_a_folder_that_cannot_be_listed_any_more(copied: Path, unlisted) -> None:
    result = check_folder(copied)
    unlisted(copied / "hidden")
    with pytest.raises(VerificationError, match="hidden was changed"):
        result.still_stands()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_a_folder_without_rights_is_not_intact(copied: Path) -> None:
    """The same without a stand-in: as somebody who may not list it."""
    hidden = copied / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "adapter_config.json").write_text("{}")
    for parent in (copied, *copied.parents):
        if parent.is_relative_to("/tmp"):
            parent.chmod(0o755)
    os.seteuid(65534)
    try:
        problems = check_folder(copied).problems
    finally:
        os.seteuid(0)
    assert problems == ("hidden: cannot be listed (Permission denied)",)
