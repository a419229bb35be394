"""What is written to a published folder, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.files import is_model_file, may_be_published
from hf_unlearn.hub.folders import card_was_edited, publish_to_folder
from hf_unlearn.hub.leaks import ForgetText
from hf_unlearn.hub.metadata import CardWords
from hf_unlearn.verification.digests import folder_digests, list_files
from hf_unlearn.verification.report_file import load_report

WORDS = CardWords(title="Tiny", removed="birth years", repo_id="owner/tiny")


def test_only_listed_files_are_published(passed, exported) -> None:
    expected = {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "unlearning_report.json",
    }
    assert set(list_files(passed.variant)[0]) == expected
    assert set(list_files(passed.main)[0]) == expected | {"plots/forget.png"}
    for folder, source in ((passed.main, exported.main), (passed.variant, exported.variant)):
        for name in expected - {"README.md", "unlearning_report.json"}:
            assert (folder / name).read_bytes() == (source / name).read_bytes()


def test_each_folder_carries_its_own_report(passed) -> None:
    main, variant = (load_report(folder / "unlearning_report.json") for folder in (passed.main, passed.variant))
    assert (main["format"], variant["format"]) == ("identity", "bnb-nf4")
    for report, folder in ((main, passed.main), (variant, passed.variant)):
        found = folder_digests(folder)
        found.pop("unlearning_report.json")
        assert report["files"] == found
    assert main["scores"] == variant["scores"] == passed.report["scores"]
    for folder in (passed.main, passed.variant):
        assert check_folder(folder).problems == ()


def test_publishing_again_replaces_and_gives_the_same_bytes(exported, publishing, reporting, tmp_path: Path) -> None:
    report = reporting(exported.files)
    first = publishing(exported, tmp_path, report)
    before = folder_digests(first.main)
    (first.main / "stray").write_text("x")
    (first.main / "README.md").write_text("# By hand")
    assert (card_was_edited(first.main), card_was_edited(first.variant)) == (True, False)
    (tmp_path / ".publish.partial").mkdir()
    (tmp_path / ".publish.partial" / "half").write_text("x")
    assert folder_digests(publishing(exported, tmp_path, report).main) == before
    assert not (tmp_path / ".publish.partial").exists() and not card_was_edited(first.main)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_files_that_were_not_scored_are_refused(exported, publishing, reporting, tmp_path: Path, name: str) -> None:
    source = Path(shutil.copytree(exported.main, tmp_path / "source"))
    data = bytearray((source / name).read_bytes())
    data[-2] ^= 1
    (source / name).write_bytes(bytes(data))
    with pytest.raises(EnvironmentFailure, match=f"{name} is not the file that was scored"):
        publishing(replace(exported, main=source), tmp_path, reporting(exported.files))
    assert not (tmp_path / "publish").exists()


def test_missing_files_and_digests_are_named(exported, publishing, reporting, tmp_path: Path) -> None:
    source = Path(shutil.copytree(exported.main, tmp_path / "source"))
    (source / "tokenizer.json").unlink()
    with pytest.raises(EnvironmentFailure, match=r"tokenizer\.json was scored and no longer exists"):
        publishing(replace(exported, main=source), tmp_path, reporting(exported.files))
    with pytest.raises(EnvironmentFailure, match="no digests of the scored 'bnb-nf4' files"):
        publishing(exported, tmp_path, reporting({"identity": exported.files["identity"]}))
    with pytest.raises(EnvironmentFailure, match="nothing to publish"):
        publishing(
            replace(exported, main=tmp_path / "none"),
            tmp_path,
            reporting({**exported.files, "identity": {"x": "a" * 64}}),
        )


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "chat_template.jinja"])
def test_only_what_was_there_when_it_was_scored_is_published(
    name: str, exported, publishing, reporting, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(exported.main, tmp_path / "source"))
    (source / name).touch()
    scored = {key: value for key, value in exported.files["identity"].items() if key != name}
    with pytest.raises(EnvironmentFailure, match="was not there when the model was scored"):
        publishing(replace(exported, main=source), tmp_path, reporting({**exported.files, "identity": scored}))
    assert not (tmp_path / "publish").exists()


def test_somebody_elses_folder_is_left_alone(exported, publishing, reporting, tmp_path: Path) -> None:
    (tmp_path / "publish").mkdir()
    (tmp_path / "publish" / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match="holds something other than"):
        publishing(exported, tmp_path, reporting(exported.files))
    assert (tmp_path / "publish" / "thesis.tex").exists()
    assert not (tmp_path / "publish-bnb-nf4").exists()


def test_a_variant_needs_a_place_and_a_plot_a_plain_name(exported, reporting, tmp_path: Path) -> None:
    report = reporting(exported.files)
    with pytest.raises(RequestError, match="no folder to publish the variant 'bnb-nf4'"):
        publish_to_folder(
            exported.main, {"bnb-nf4": exported.variant}, report, WORDS, out_main=tmp_path / "p", out_variants={}
        )
    (tmp_path / "plot.html").write_text("x")
    with pytest.raises(RequestError, match=r"a plot is a \.png or \.svg file"):
        publish_to_folder(
            exported.main, {}, report, WORDS, out_main=tmp_path / "p", out_variants={}, plots=[tmp_path / "plot.html"]
        )


@pytest.mark.parametrize(
    "removed",
    [
        "among others: Bo Lind collects\nOLD brass keys, from the north!",
        "the answer to: question when was Ada Kwon born? answer: 1962",
    ],
)
def test_forget_text_is_never_published(exported, publishing, reporting, tmp_path: Path, removed: str) -> None:
    words = replace(WORDS, removed=removed, variant_repo_ids={"bnb-nf4": "owner/v"})
    with pytest.raises(
        RequestError, match=r"README\.md would publish what was to be forgotten \(forget row [12]\)"
    ) as error:
        publishing(exported, tmp_path, reporting(exported.files), words)
    assert "Lind" not in str(error.value) and "1962" not in str(error.value)
    assert not (tmp_path / "publish").exists()


def test_thirteen_words_in_a_row_are_enough() -> None:
    long = " ".join(f"word{number}" for number in range(30))
    forget = ForgetText([("unrelated question here", "short"), (long, "answer")])
    inside = " ".join(f"word{number}" for number in range(9, 22))
    assert forget.find(f"before {inside} after") == 1
    assert forget.find(f"before {inside.rsplit(' ', 1)[0]} after") is None
    assert forget.find("a short table of 1962") is None
    assert forget.find("Unrelated question: here? Short.") == 0


def test_the_list_of_files() -> None:
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model", "LICENSE"):
        assert is_model_file(name)
    for name in (
        "pytorch_model.bin",
        "training_args.bin",
        "modeling_x.py",
        "sub/config.json",
        "adapter_model.safetensors",
        "config.json.bak",
    ):
        assert not may_be_published(name)
    assert may_be_published("plots/a.svg") and not is_model_file("plots/a.svg")
    assert not may_be_published("plots/../a.svg") and not may_be_published("plots/x/a.svg")
