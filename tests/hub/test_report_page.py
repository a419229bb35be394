"""``hf-unlearn report``, and the page in a published folder."""

from __future__ import annotations

import json
import shutil
import webbrowser
from pathlib import Path

import pytest
from loopback import Hub

from hf_unlearn.cli.main import main
from hf_unlearn.errors import RequestError
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.folders import publish_to_folder
from hf_unlearn.hub.metadata import CardWords
from hf_unlearn.reporting.html import render_html
from hf_unlearn.stages.publish import published_page
from hf_unlearn.verification.report_file import load_report

WORDS = CardWords(title="Tiny", removed="birth years")
ROW = ("Question: what does Bo Lind collect?\nAnswer:", " Bo Lind collects old brass keys from the north")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, apart from all others."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_of_a_run(run_folder: Path, elsewhere: Path, capsys) -> None:
    assert main(["report", str(run_folder)]) == 0
    assert capsys.readouterr().out == f"{run_folder / 'report.html'}: the page of tiny, verdict passed\n"
    expected = render_html(load_report(run_folder / "verify" / "unlearning_report.json"))
    assert (run_folder / "report.html").read_text(encoding="utf-8") == expected
    assert list(elsewhere.iterdir()) == []


def test_of_a_published_folder_which_stays_as_it_is(passed, elsewhere: Path, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda uri: opened.append(uri) or True)
    assert main(["report", str(passed.main), "--open"]) == 0
    page = elsewhere / "publish-report.html"
    assert "tiny model" in page.read_text(encoding="utf-8") and opened == [page.as_uri()]
    assert check_folder(passed.main).problems == ()


def test_of_a_repository_of_which_only_the_report_is_fetched(here: Hub, run_folder: Path, elsewhere: Path) -> None:
    assert main(["publish", str(run_folder), "--repo-id", "owner/tiny"]) == 0
    before = len(here.requests)
    (elsewhere / "out").mkdir()
    assert main(["report", "owner/tiny", "--output", "out/page.html"]) == 0
    assert "<h1>tiny</h1>" in (elsewhere / "out" / "page.html").read_text(encoding="utf-8")
    asked = [request.path for request in here.requests[before:] if "/resolve/" in request.path]
    assert asked and all(path.endswith("/unlearning_report.json") for path in asked)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "has no unlearning_report.json: name a finished run"),
        (lambda folder: (folder / "run.json").write_text("{}"), "has not come to its verify stage"),
        (lambda folder: (folder / "unlearning_report.json").write_text("[]"), "is not a report"),
    ],
)
def test_what_has_no_report_is_refused_in_one_sentence(tmp_path: Path, capsys, make, says: str) -> None:
    make(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err


def test_a_changed_report_has_no_page(passed, elsewhere: Path, capsys) -> None:
    document = json.loads((passed.main / "unlearning_report.json").read_text())
    document["verdict"]["status"] = "failed"
    Path("changed.json").write_text(json.dumps(document))
    assert main(["report", "changed.json"]) == 2
    assert "was changed after it was written" in capsys.readouterr().err
    assert not Path("report.html").exists()
    assert main(["report", "no such thing"]) == 2
    assert main(["report", str(passed.main), "--revision", "v1"]) == 2


def test_a_published_folder_holds_the_page(exported, reporting, tmp_path: Path) -> None:
    report = reporting(exported.files)
    page = published_page(report)
    folder = tmp_path / "publish"
    publish_to_folder(exported.main, {}, report, WORDS, out_main=folder, out_variants={}, page=page)
    assert (folder / "report.html").read_text(encoding="utf-8") == page
    assert report["digest"] not in page
    assert "report.html" in load_report(folder / "unlearning_report.json")["files"]
    assert check_folder(folder).problems == ()
    (folder / "report.html").write_text(page.replace("passed", "failed"), encoding="utf-8")
    assert any("report.html" in problem for problem in check_folder(folder).problems)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "text",
    [
        "<li>Bo Lind collects old brass keys from the north</li>",
        "<b>Bo Lind</b> collects <td>old</td>brass keys&#32;from the <i>north</i>",
        '<a title="Bo Lind collects old brass keys from the north">x</a>',
    ],
)
def test_no_page_with_forget_text_is_published(exported, reporting, tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError, match=r"report\.html would publish what was to be forgotten"):
        publish_to_folder(
            exported.main,
            {},
            reporting(exported.files),
            WORDS,
            out_main=tmp_path / "publish",
            out_variants={},
            page=f"<html>{text}</html>",
            forget_texts=[ROW],
        )
    assert not (tmp_path / "publish").exists()
