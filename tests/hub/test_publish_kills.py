"""Killed at every change to files while it publishes, stages or signs: old or new, whole, or gone by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kills import Killed, every_kill, killed_at

from hf_unlearn.cli.main import main
from hf_unlearn.errors import RequestError
from hf_unlearn.hub.check import check_folder, sign_folder
from hf_unlearn.hub.files import SIGNATURE_FILE
from hf_unlearn.hub.folders import read_release, stage, write_release
from hf_unlearn.hub.leaks import ForgetText
from hf_unlearn.hub.metadata import CardWords
from hf_unlearn.hub.options import HubOptions
from hf_unlearn.verification.digests import folder_digests

OPTIONS = HubOptions("owner/tiny")


def listing(folder: Path) -> set[str]:
    """Names in a folder that are not hidden."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()


@pytest.fixture
def plain_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a card says takes longest, and is not what is asked here."""

    def card(report: Mapping[str, Any], *more: Any, has_page: bool = False) -> str:
        return f"card {report['digest']}"

    monkeypatch.setattr("hf_unlearn.hub.folders.render_card", card)


def test_a_killed_publication(exported, publishing, reporting, plain_card, tmp_path: Path) -> None:
    """One that replaces an older one: every folder is the old one, the new one or none, the main model's last."""
    old, new = reporting(exported.files), reporting(exported.files, hidden=True)
    for kind in ("old", "new", "place"):
        (tmp_path / kind).mkdir()
    publishing(exported, tmp_path / "old", old)
    publishing(exported, tmp_path / "new", new)
    names = ("publish", "publish-bnb-nf4")
    states = {kind: [folder_digests(tmp_path / kind / name) for name in names] for kind in ("old", "new")}
    place, steps = tmp_path / "place", []

    def look() -> None:
        found = []
        for number, name in enumerate(names):
            files = folder_digests(place / name) if (place / name).exists() else None
            found += [kind for kind, wanted in states.items() if wanted[number] == files] or [None]
            assert files is None or found[-1]
        steps.append(tuple(found))
        if len(steps) % 8 == 1:
            publishing(exported, place, new)
            assert [folder_digests(place / name) for name in names] == states["new"]
            assert {path.name for path in place.iterdir()} == {*names, "forget.png"}
        renew()

    def renew() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "old", place, copy_function=os.link)

    renew()
    kinds = every_kill(lambda: publishing(exported, place, new), look, step=6)
    assert kinds.count("replace") == 4 and len(kinds) > 60
    assert {("old", "old"), ("old", None), ("old", "new"), (None, "new"), ("new", "new")} == set(steps)


def test_a_killed_release_file(tmp_path: Path) -> None:
    run = tmp_path / "run"
    texts = [ForgetText([("a b c d", "e")]), ForgetText([("f g h i", "j")])]
    words = CardWords(title="Tiny", removed="birth years")

    def look() -> None:
        text = (run / "release.json").read_text(encoding="utf-8")
        assert (texts[0].salt.hex() in text) != (texts[1].salt.hex() in text) and text.endswith("}")
        write_release(run, words, [], texts[0])
        assert [path.name for path in run.iterdir()] == ["release.json"]
        assert (run / "release.json").stat().st_mode & 0o777 == 0o600

    write_release(run, words, [], texts[0])
    kinds = every_kill(lambda: write_release(run, words, [], texts[1]), look)
    assert {"open", "write", "fsync", "replace"} <= set(kinds)


def test_a_killed_draft_for_the_hub(passed_run: Path, plain_card, tmp_path: Path) -> None:
    """What goes to the Hub is staged in folders of its own; their weights are other names of those in ``publish/``."""
    run = Path(shutil.copytree(passed_run, tmp_path / "run"))
    release = read_release(run)
    wanted = {each.folder: folder_digests(each.folder) for each in stage(release, OPTIONS)}
    card = run / "hub" / "owner" / "tiny" / "README.md"
    card.write_text("an older card")
    older = folder_digests(card.parent)

    def look() -> None:
        for folder, files in wanted.items():
            assert not folder.exists() or folder_digests(folder) in (files, older)
        stage(release, OPTIONS)
        assert {folder: folder_digests(folder) for folder in wanted} == wanted
        assert {path.name for path in (run / "hub" / "owner").iterdir()} == {"tiny", "tiny-bnb-nf4"}
        card.write_text("an older card")

    kinds = every_kill(lambda: stage(release, OPTIONS), look, step=9)
    assert kinds.count("replace") == 4
    assert check_folder(run / "publish").intact


def test_a_killed_signature(copied: Path, key: Path) -> None:
    """The folder is intact at every moment, and can be signed again."""

    def look() -> None:
        assert check_folder(copied).intact
        sign_folder(copied, key)
        assert check_folder(copied).signature.status == "unknown"
        assert listing(copied.parent) == {"copied"}
        (copied / SIGNATURE_FILE).unlink()

    assert "replace" in every_kill(lambda: sign_folder(copied, key), look)
    assert [path.name for path in copied.parent.iterdir()] == ["copied"]


def test_half_a_signature_of_an_earlier_version_does_not_block_signing(copied: Path, key: Path) -> None:
    (copied / f"{SIGNATURE_FILE}.partial").write_text('{"half')
    assert not check_folder(copied).intact
    sign_folder(copied, key)
    assert check_folder(copied).intact


def test_a_folder_in_a_place_where_nothing_can_be_written(copied: Path, key: Path, monkeypatch) -> None:
    stock = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: stock(path, mode) and Path(path) != copied.parent)
    assert sign_folder(copied, key) == copied / SIGNATURE_FILE
    assert check_folder(copied).signature.status == "unknown"


def test_publishing_again_keeps_the_signature_or_says_that_it_is_gone(
    exported, publishing, reporting, key: Path, tmp_path: Path
) -> None:
    from hf_unlearn.hub.folders import publish_to_folder

    def again(hidden: bool) -> list[bool]:
        folders = publish_to_folder(
            exported.main,
            {"bnb-nf4": exported.variant},
            reporting(exported.files, hidden=hidden),
            CardWords(title="Tiny", removed="birth years"),
            out_main=tmp_path / "publish",
            out_variants={"bnb-nf4": tmp_path / "publish-bnb-nf4"},
        )
        return [each.unsigned for each in folders]

    assert again(hidden=False) == [False, False]
    signature = sign_folder(tmp_path / "publish", key).read_bytes()
    assert again(hidden=False) == [False, False]
    assert (tmp_path / "publish" / SIGNATURE_FILE).read_bytes() == signature
    assert check_folder(tmp_path / "publish").signature.status == "unknown"
    assert again(hidden=True) == [True, False]
    assert not (tmp_path / "publish" / SIGNATURE_FILE).exists() and check_folder(tmp_path / "publish").intact


def holds_row(folder: Path) -> list[Path]:
    """Files below a folder that hold the forget row."""
    return [path for path in folder.rglob("*") if path.is_file() and b"old brass keys" in path.read_bytes()]


def test_a_refused_publication_leaves_no_draft_and_the_old_one(exported, publishing, reporting, tmp_path) -> None:
    """The last folder that is made is refused: nothing was replaced."""
    words = CardWords(title="Tiny", removed="birth years", repo_id="owner/tiny")
    report = reporting(exported.files)
    first = publishing(exported, tmp_path, report, words)
    before = [folder_digests(folder) for folder in (first.main, first.variant)]
    source = Path(shutil.copytree(exported.variant, tmp_path / "source"))
    template = source / "chat_template.jinja"
    template.write_text("{# Bo Lind collects old brass keys from the north #}")
    files = {**exported.files, "bnb-nf4": folder_digests(source)}
    with pytest.raises(RequestError, match="would publish what was to be forgotten"):
        publishing(replace(exported, variant=source), tmp_path, reporting(files, hidden=True), words)
    assert [folder_digests(folder) for folder in (first.main, first.variant)] == before
    assert holds_row(tmp_path) == [template]


def test_a_refused_draft_for_the_hub_is_not_left(passed_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(passed_run, tmp_path / "run"))
    release = read_release(run)
    words = replace(release.words, removed="among others that Bo Lind collects old brass keys from the north")
    with pytest.raises(RequestError, match="would publish what was to be forgotten"):
        stage(replace(release, words=words), OPTIONS)
    assert not holds_row(run) and not list((run / "hub").rglob("README.md"))


def test_a_killed_dry_run_goes_on(passed_run: Path, tmp_path: Path, capsys) -> None:
    """From the command line, at one change in the middle."""
    run = Path(shutil.copytree(passed_run, tmp_path / "run"))
    command = ["publish", str(run), "--repo-id", "owner/tiny", "--dry-run"]
    with killed_at(12) as process, pytest.raises(Killed):
        main(command)
    assert process.dead
    assert main(command) == 0
    assert listing(run / "hub" / "owner") == {"tiny", "tiny-bnb-nf4"}
    capsys.readouterr()
