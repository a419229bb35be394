"""Names from a Hub that lead out of a folder or steer a terminal: one sentence, and nothing is written."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from huggingface_hub import constants
from loopback import Hub

from hf_unlearn.cli.main import main
from hf_unlearn.data.encoding import load_tokenizer
from hf_unlearn.data.sources import Source, load_source
from hf_unlearn.errors import EnvironmentFailure, HfUnlearnError, RequestError, printable
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.metadata import is_hub_id
from hf_unlearn.hub.snapshot import refuse_names
from hf_unlearn.hub.verified import VerifiedModel, check, load_report
from hf_unlearn.models.loading import fetch, load_model

NAME = "owner/tiny"
LEADING_OUT = ["../evil.json", "a/../../evil.json", "/etc/evil.json", "C:\\evil.json", "\\\\host\\share\\evil.json"]
NO_FILES = ["x\ny.json", "a" * 300 + ".json", "a\0b.json", "a/./b.json", "a//b.json", "\x1b[31mred.json"]
IDS = ["owner/na\nme", "owner/name\n", "owner/name\x1b[31m", "../x", "//x/y", "owner/na me", "a\0b", "\\\\host\\x"]


@pytest.fixture
def cache(here: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    # What asks no endpoint of its own goes to the same server.
    monkeypatch.setattr(constants, "ENDPOINT", os.environ["HF_ENDPOINT"])
    template = os.environ["HF_ENDPOINT"] + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return folder


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", [*LEADING_OUT, *NO_FILES])
def test_a_repository_with_such_a_name_is_not_fetched(here: Hub, cache: Path, passed, name: str, capfd) -> None:
    here.create_from(NAME, passed.main).put({name: b"{}"})
    for load in (check, load_report, VerifiedModel.from_pretrained):
        with pytest.raises(EnvironmentFailure, match="serves a file whose name leads out of its folder") as caught:
            load(NAME)
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert main(["check", NAME]) == 3
    assert capfd.readouterr().err.count("\n") == 1
    assert not cache.exists() or files_in(cache) == []
    assert not (cache.parent / "evil.json").exists()


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_commit_that_was_named_is_not_fetched_either(here: Hub, cache: Path, passed, name: str) -> None:
    """Here it is the client that refuses; before, its own error came through."""
    repo = here.create_from(NAME, passed.main)
    repo.put({name: b"{}"})
    with pytest.raises(EnvironmentFailure, match=r"owner/tiny was not fetched: .*cannot"):
        check(NAME, repo.branches["main"])
    with pytest.raises(EnvironmentFailure, match=r"model\.target: 'owner/tiny' was not fetched from the Hub"):
        fetch(NAME, None, "model.target")
    assert not any(path.name == "evil.json" for path in files_in(cache.parent))


def test_names_of_real_repositories_are_no_reason() -> None:
    refuse_names(
        [".gitattributes", "plots/a b.png", "größe/模型.json", "a..b", "..a", "original/consolidated.00.pth"], "x"
    )


@pytest.mark.parametrize("repo_id", IDS)
def test_an_id_that_is_none(repo_id: str, cache: Path, capfd) -> None:
    assert not is_hub_id(repo_id)
    for load in (
        check,
        load_report,
        VerifiedModel.from_pretrained,
        load_tokenizer,
        load_model,
        lambda each: fetch(each, None, "model.target"),
        lambda each: load_source(Source(dataset=each), "forget"),
    ):
        with pytest.raises(RequestError) as caught:
            load(repo_id)
        assert str(caught.value).isprintable()
    assert main(["check", repo_id]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.strip().isprintable()
    assert not cache.exists() or files_in(cache) == []


def test_what_steers_a_terminal_is_spelled_out(copied: Path, capfd) -> None:
    name = "a\x1b]0;title\x07\u202egnp.md\u200b"
    (copied / name).write_text("x")
    assert main(["check", str(copied)]) == 1
    said = capfd.readouterr().err
    assert r"a\x1b]0;title\x07\u202egnp.md\u200b: was added" in said
    assert all(line.isprintable() for line in said.splitlines())
    assert printable("größe – 模型\u00a0\u202f✓ 🙂") == "größe – 模型\u00a0\u202f✓ 🙂"
    assert printable("a\nb\r\x9b\ud800", keep="\n") == "a\nb\\r\\x9b\\ud800"


@pytest.mark.parametrize("kind", [RequestError, EnvironmentFailure, HfUnlearnError])
def test_no_error_holds_a_line_break_or_an_escape(kind) -> None:
    error = kind("no file \x1b[2J\nVerdict: passed")
    assert str(error) == "no file \\x1b[2J\\nVerdict: passed"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_problems_name_files_as_they_are(copied: Path) -> None:
    """Programs that read the result need the name itself; only what is printed is spelled out."""
    (copied / "a\tb").write_text("x")
    assert any(problem.startswith("a\tb: ") for problem in check_folder(copied).problems)
