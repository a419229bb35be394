"""The card: what the Hub reads equals the report, and people find the verdict first."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_unlearn.errors import RequestError
from hf_unlearn.hub.card import render_card
from hf_unlearn.hub.metadata import CardWords, card_problems
from hf_unlearn.verification.report_file import load_report
from hf_unlearn.version import __version__

WORDS = CardWords(title="Tiny", removed="birth years of people who do not exist")
INDEX = (
    "model-index: [{{name: x, results: [{{task: {{type: t}}, dataset: {{type: d, name: {name}}}, "
    "metrics: [{{type: m, value: {value}}}]}}]}}]"
)


def lookup(report: dict, model: str) -> dict:
    return {
        (r["split"], r["transform"]): round(r["value"], 4)
        for r in report["scores"]
        if (r["model"], r["metric"]) == (model, "probability") and r["transform"] != "rtt"
    }


def test_numbers_read_back_from_the_metadata_are_those_of_the_report(passed) -> None:
    card = ModelCard.load(passed.main / "README.md")
    report = load_report(passed.main / "unlearning_report.json")
    entries = card.data.eval_results
    found = {(entry.dataset_split, entry.metric_args["transform"]): entry.metric_value for entry in entries}
    assert found == lookup(report, "npo") and len(entries) == 4
    before = {(entry.dataset_split, entry.metric_args["transform"]): entry.metric_args["target"] for entry in entries}
    assert before == lookup(report, "target")


def test_a_card_has_a_dozen_numbers_for_the_hub_however_many_formats_there_are(passed) -> None:
    names = [f"bnb-nf4-{number}" for number in range(9)]
    extra = [{**row, "transform": name} for row in passed.report["scores"] for name in names]
    report = {**passed.report, "scores": [*passed.report["scores"], *extra]}
    text = render_card(report, "identity", WORDS)
    assert len(ModelCard(text).data.eval_results) == 12
    assert all(f"| {name} |" in text for name in names), "the table has all of them"


def test_metadata_of_main_and_variant(passed) -> None:
    main = ModelCard.load(passed.main / "README.md").data.to_dict()
    variant = ModelCard.load(passed.variant / "README.md").data.to_dict()
    assert main["tags"] == ["unlearning", "hf_unlearn", "unlearning-verdict:passed"]
    assert (main["base_model"], main["base_model_relation"]) == ("owner/base", "finetune")
    assert (variant["base_model"], variant["base_model_relation"]) == ("owner/tiny", "quantized")
    assert main["library_name"] == "transformers" and main["pipeline_tag"] == "text-generation"
    assert main["license"] == "apache-2.0" and main["language"] == ["en"]
    under = {
        metric["args"]["transform"] for result in variant["model-index"][0]["results"] for metric in result["metrics"]
    }
    assert under == {"identity", "bnb-nf4"}


def test_a_local_base_leaves_no_trace(passed, failed) -> None:
    data = ModelCard.load(failed.main / "README.md").data.to_dict()
    assert "base_model" not in data and "base_model_relation" not in data
    words = replace(WORDS, license=None)
    text = render_card(failed.report, "identity", words)
    assert "license" not in ModelCard(text).data.to_dict()


def body_of(folder: Path) -> str:
    return (folder / "README.md").read_text().split("---\n", 2)[2].strip()


def test_the_verdict_is_right_under_the_title(passed, failed) -> None:
    assert body_of(passed.main).startswith("# Tiny\n\n**Unlearning verdict: passed.**")
    title, _, first = body_of(failed.main).splitlines()[:3]
    assert title == "# Tiny"
    assert first.startswith(
        "**Unlearning verdict: failed.** npo did not forget for good: in bnb-nf4, all of what had to"
    )
    assert body_of(failed.variant).splitlines()[2] == first


def test_body_holds_what_a_reader_needs(failed) -> None:
    body = body_of(failed.main)
    rows = {
        row["transform"]: row
        for row in failed.report["recovered"]
        if (row["model"], row["metric"]) == ("npo", "probability")
    }
    score = {
        (r["model"], r["transform"]): r["value"]
        for r in failed.report["scores"]
        if (r["split"], r["metric"]) == ("forget", "probability")
    }
    row = rows["bnb-nf4"]
    low, high = row["ci95"]
    line = (
        f"| bnb-nf4 | {score['target', 'bnb-nf4']:.3f} | **{score['npo', 'bnb-nf4']:.3f}** | "
        f"{score['never_knew', 'bnb-nf4']:.3f} | {row['recovered_share']:.2f} [{low:.2f}, {high:.2f}] | "
        f"{row['retention_ratio']:.2f} | failed |"
    )
    assert line in body
    for part in (
        "birth years of people who do not exist",
        "`rtt`: survived. It had 2 folds, 6 epochs and learning rates 0.0001 and 0.0003.\n",
        "from a clone of its repository, with `pip install -e .` there, and with `pip install hf_unlearn` once",
        "@software{hf_unlearn,",
        "Formats tested: `bnb-nf4`",
        "Not tested: KL on generic text; merging",
        'require="any"',
        "hf-unlearn check owner/tiny",
        "void after any further training, merging",
        "still knows what was removed",
        "seed 0, torch 2.0",
        "![forget](plots/forget.png)",
        "| bin-hidden | failed | failed | what is left in it is found in bnb-nf4 (recovered share 1.0",
        "salted hash `cccccccccccccccc…`",
    ):
        assert part in body, part
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert {len(line.split("|")) for line in tables} == {10, 9, 6, 5}


def test_the_first_table_has_every_score_before_and_after_and_the_verdict_of_each_transform(failed) -> None:
    report = failed.report
    table = body_of(failed.main).split("| answer probability |")[1].split("\n\n")[0].splitlines()[2:]
    found = {cells[1].strip(): [cell.strip(" *") for cell in cells[2:-1]] for cells in (x.split("|") for x in table)}
    assert list(found) == ["as is", "bnb-nf4", "rtt"]
    value = {(r["model"], r["split"], r["transform"], r["metric"]): r["value"] for r in report["scores"]}
    for label, cells in found.items():
        name = "identity" if label == "as is" else label
        mine = [r for r in (*report["recovered"], *report["utility"]) if (r["model"], r["transform"]) == ("npo", name)]
        keys = [(model, "forget") for model in ("target", "npo", "never_knew")]
        keys += [("target", "retain"), ("npo", "retain")]
        assert cells[:5] == [f"{value[model, split, name, 'probability']:.3f}" for model, split in keys]
        top = max(row["recovered_share"] for row in mine if "recovered_share" in row)
        assert cells[5].startswith(f"{top:.2f} by ".replace("-0.00", "0.00"))
        statuses = {row["status"] for row in mine}
        assert cells[6] == next(s for s in ("failed", "inconclusive", "passed") if s in statuses)


def test_a_card_names_only_addresses_that_are_there(passed, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no release on the package index yet, and maybe no public repository."""
    assert "pypi.org" not in render_card(passed.report, "identity", WORDS)
    entry = "  version = {" + __version__ + "}\n}\n```"
    assert entry in render_card(passed.report, "identity", WORDS)
    monkeypatch.setattr("hf_unlearn.hub.card.REPOSITORY", "https://github.com/o/r")
    text = render_card(passed.report, "identity", WORDS)
    assert "installed with `pip install git+https://github.com/o/r`, and with `pip install hf_unlearn` once" in text
    assert "  version = {" + __version__ + "},\n  url     = {https://github.com/o/r}\n}\n```" in text
    assert "from a clone" not in text


def test_a_variant_points_at_its_own_line_and_its_library(passed) -> None:
    body = body_of(passed.variant)
    assert "| **bnb-nf4** (this repository) |" in body
    assert "This format needs `bitsandbytes` to be installed." in body
    assert "to be installed" not in body_of(passed.main)


def test_a_card_warns_where_a_control_is_not_as_it_must(passed) -> None:
    assert "Do not rely" not in body_of(passed.main)
    controls = [{**row, "ok": False} for row in passed.report["controls"]]
    text = render_card({**passed.report, "controls": controls}, "identity", WORDS)
    assert "> **Do not rely on this verdict: " in text.split("**What was removed:**")[0]
    assert "| bin-hidden | failed | failed (**not as it must**) |" in text


def test_undefined_numbers_are_dashes_and_no_metadata(passed) -> None:
    report = {**passed.report, "recovered": [dict(row) for row in passed.report["recovered"]]}
    for row in report["recovered"]:
        if (row["model"], row["transform"], row["metric"]) == ("npo", "rtt", "probability"):
            row.update(recovered_share=None, ci95=None, status="inconclusive")
    text = render_card(report, "identity", WORDS)
    assert re.search(r"\| – \| \d\.\d\d \| inconclusive \|", text)
    lost = [row for row in report["scores"] if (row["model"], row["transform"]) != ("npo", "bnb-nf4")]
    names = [
        r.metric_name for r in ModelCard(render_card({**report, "scores": lost}, "identity", WORDS)).data.eval_results
    ]
    assert names == ["forget answer probability (as is)", "retain answer probability (as is)"]
    assert "PATH/TO/THIS/FOLDER" in text


def test_holdout_scores_stand_in_the_column_of_a_missing_never_knew_model(passed) -> None:
    holdout = {"model": "target", "transform": "bnb-nf4", "metric": "probability", "split": "holdout", "n": 9}
    kept = [row for row in passed.report["scores"] if row["model"] != "never_knew"]
    report = {
        **passed.report,
        "models": {**passed.report["models"], "never_knew": None},
        "scores": [*kept, {**holdout, "value": 0.0777, "ci95": None}],
    }
    text = render_card(report, "identity", WORDS)
    assert "forget: never knew (holdout facts) |" in text
    line = next(line for line in text.splitlines() if line.startswith("| bnb-nf4 |"))
    assert line.split("|")[4].strip() == "0.078"


@pytest.mark.parametrize("never_knew", [True, False])
def test_every_share_on_the_card_follows_from_the_scores_beside_it(exported, reporting, never_knew: bool) -> None:
    """Without a never-knew model the floor after an attack is not the one before it."""
    report = reporting(exported.files, never_knew=never_knew)
    text = render_card(report, "identity", WORDS)
    lines = text[text.index("Forget set, answer probability") :].split("</details>")[0].splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip(" *") for cell in line.split("|")[2:]] for line in lines[3:-1]}
    assert set(cells) >= {"as is", "bnb-nf4", "rtt"}
    for name in ("as is", "bnb-nf4", "rtt"):
        target, unlearned, floor = map(float, cells[name][:3])
        share = float(cells[name][3].split()[0])
        assert share == pytest.approx((unlearned - floor) / (target - floor), abs=0.011), name
    first = next(line for line in text.splitlines() if line.startswith("| rtt |"))
    assert first.split("|")[4].strip() == cells["rtt"][2], "the first table has the same floor"
    shown = {name: float(cells[name][2]) for name in ("as is", "rtt")}
    expected = {"as is": 0.05, "rtt": 0.05} if never_knew else {"as is": 0.06, "rtt": 0.2}
    assert shown == pytest.approx(expected, abs=0.02)
    assert ("after an attack that of the unlearned model" in text) is not never_knew


@pytest.mark.parametrize(
    ("front", "key"),
    [
        ("license: Apache License", "license"),
        ("language: English", "language"),
        ("base_model: /home/me/model", "base_model"),
        ("base_model_relation: child", "base_model_relation"),
        ("tags: [1]", "tags"),
        ("tags: 1", "front matter"),
        ("model-index: [{name: x, results: [{task: {type: t}, dataset: {type: d}, metrics: []}]}]", "front matter"),
        (INDEX.format(name="''", value=1), "model-index"),
        (INDEX.format(name="n", value="null"), "model-index"),
        ("a: [", "front matter"),
    ],
)
def test_local_check_finds_what_the_hub_refuses(front: str, key: str) -> None:
    problems = card_problems(f"---\n{front}\n---\n\ntext\n")
    assert problems and problems[0].startswith(key)


def test_local_check_of_good_and_missing_front_matter(passed) -> None:
    assert card_problems((passed.main / "README.md").read_text()) == []
    assert card_problems("no front matter\n") == ["front matter: is missing"]


def test_words_that_the_hub_refuses_are_refused_here(passed) -> None:
    with pytest.raises(RequestError, match="license: 'My License'"):
        render_card(passed.report, "identity", replace(WORDS, license="My License"))
