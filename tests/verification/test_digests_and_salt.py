"""Digests of folders and salted hashes of sets."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.verification.digests import (
    compare_digests,
    folder_digests,
    list_files,
    new_salt,
    salted_hash,
    sha256_file,
)

SALT = b"s" * 32
ROWS = [("Who?", " Ann"), ("When?", " 1962")]


def test_digest_of_a_file_longer_than_one_piece(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) * 2 + 17)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_folder_digests_cover_subfolders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("one", "a/two", "a/b/.three"):
        (tmp_path / name).write_text(name)
    expected = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a/b/.three", "a/two", "one")}
    assert folder_digests(tmp_path) == expected


def test_links_and_pipes_are_named(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "file").write_text("x")
    (folder / "plain").write_text("x")
    (folder / "link").symlink_to(outside / "file")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dir").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    files, problems = list_files(folder)
    assert files == ["plain"]
    assert [problem.split(":")[0] for problem in problems] == ["dir", "link", "loop", "pipe"]
    with pytest.raises(EnvironmentFailure, match="dir: is a link"):
        folder_digests(folder)
    files, problems = list_files(folder, links_within=outside)
    assert files == ["link", "plain"]
    assert [problem.split(":")[0] for problem in problems] == ["dir", "loop", "pipe"]


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="gone cannot be read"):
        sha256_file(tmp_path / "gone")


def test_compare_names_every_difference() -> None:
    problems = compare_digests(
        {"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}, {"b": "9" * 64, "c": "3" * 64, "d": "4" * 64}
    )
    assert [problem.split(":")[0] for problem in problems] == ["a", "b", "d"]
    assert "missing" in problems[0] and "222222222222…" in problems[1] and "added" in problems[2]


def test_salted_hash_depends_on_rows_and_salt_and_not_on_order() -> None:
    one = salted_hash(ROWS, SALT)
    assert salted_hash(reversed(ROWS), SALT) == one
    others = [
        salted_hash(ROWS[:1], SALT),
        salted_hash([*ROWS, ROWS[0]], SALT),
        salted_hash([("Who? A", "nn"), ROWS[1]], SALT),
        salted_hash([("Who?", " Ann 1962"), ("When?", "")], SALT),
        salted_hash(ROWS, b"t" * 32),
    ]
    assert len({one, *others}) == 6
    assert new_salt() != new_salt() and len(new_salt()) == 32
    with pytest.raises(ValueError, match="16 bytes"):
        salted_hash(ROWS, b"short")
