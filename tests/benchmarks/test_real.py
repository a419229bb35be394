"""From a run's report to the table of methods on a real model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.frontier.methods import PLAIN
from benchmarks.real import page as pages
from benchmarks.real.methods import CHECKPOINTS, METHODS
from benchmarks.real.outcome import outcome_of
from benchmarks.real.page import cost_of, keep, known_words, misses, page, read_kept
from benchmarks.real.sets import SETS, Way
from hf_unlearn.recipe import Recipe, load_recipe

REPORT = json.loads(
    (Path(pages.HERE).parent / "results" / "quickstart" / "unlearning_report.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def auto():
    return outcome_of(REPORT, {"floating_point_ops": 3e12, "seconds": 9.0}, "capitals", 0, "auto")


@pytest.fixture(scope="module")
def plain():
    return outcome_of(REPORT, {"floating_point_ops": 1e12, "seconds": 3.0}, "capitals", 0, PLAIN)


def test_an_outcome_is_what_the_report_says(auto, plain):
    rows = {
        (row["transform"], row["metric"]): row["recovered_share"]
        for row in REPORT["recovered"]
        if row["model"] == "auto"
    }
    assert auto.status == "passed" and plain.status == "failed"
    assert auto.identity == {name: rows["identity", name] for name in ("probability", "mc_accuracy")}
    assert auto.formats["mc_accuracy"] == max(rows[name, "mc_accuracy"] for name in ("bnb-nf4", "rtn-int4-g32"))
    assert auto.attacks == {"rtt": max(rows["rtt", name] for name in ("probability", "mc_accuracy"))}
    assert auto.known["identity"] == (0, 6, 200) and auto.known["rtt"] == (2, 8, 120)
    assert known_words(plain).endswith("/ 73 of 120 (≤ 3)")
    score = {
        (row["model"], row["transform"]): row["value"]
        for row in REPORT["scores"]
        if (row["split"], row["metric"]) == ("retain", "probability")
    }
    conditions = ("identity", "bnb-nf4", "rtn-int4-g32")
    assert auto.kept == min(score["auto", name] / score["target", name] for name in conditions)
    assert auto.perplexity is None, "that report is from before it was measured"
    assert auto.made["torch"] == "2.13.0+cpu" and auto.made["in"] == "float32"
    assert auto.made["RTT epochs"] == "6"


def test_what_is_missed_is_named(auto, plain):
    # Perplexity of that report is not known, which is no pass.
    assert misses(auto, 2.0) == ["perplexity"]
    assert misses(replace(auto, perplexity=1.02), 2.0) == []
    assert misses(replace(auto, perplexity=1.02, others={"continents": 0.9, "languages": 1.0}), 3.5) == [
        "other knowledge",
        "cost",
    ]
    found = misses(plain, 1.0)
    assert {"knows after an attack", "single facts", "retain"} <= set(found)
    assert misses(replace(auto, perplexity=1.0, lowest={"probability": 0.0, "mc_accuracy": -0.2}), 1.0) == [
        "below chance"
    ]


def test_outcomes_are_added_to_those_that_are_kept(auto, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "KEPT", tmp_path / "outcomes.json")
    assert read_kept() == []
    keep([plain])
    kept = keep([auto, replace(plain, seconds=4.0)])
    assert [(one.method, one.seconds) for one in kept] == [("auto", 9.0), (PLAIN, 4.0)]
    again = read_kept()
    assert [one.method for one in again] == ["auto", PLAIN]
    assert cost_of(again[0], again) == 3.0
    text = page(again)
    assert "## capitals" in text and "| npo-kl | 0 |" in text and "0 of 200 (≤ 6)" in text


def test_the_committed_page_is_made_of_the_committed_outcomes():
    path = pages.HERE / "results.md"
    assert path.read_text(encoding="utf-8") == page(read_kept())


def cell(name: str, way: Way, folder: Path) -> Recipe:
    path = folder / "recipe.yaml"
    methods = [{**METHODS[each].entry(), **CHECKPOINTS} for each in METHODS]
    path.write_text(json.dumps(SETS[name].recipe(7, methods, way)), encoding="utf-8")  # JSON is YAML
    return load_recipe(path)


@pytest.mark.parametrize("name", SETS)
def test_every_cell_is_a_recipe(name, tmp_path):
    recipe = cell(name, Way(epochs=3), tmp_path)
    assert [method.name for method in recipe.methods] == list(METHODS)
    assert recipe.seed == 7 and recipe.controls == ()
    assert (recipe.data.world or recipe.model.scratch).seed == 7
    assert bool(recipe.data.keep_drawn) == (SETS[name].drawn and name != "tofu")
    assert recipe.model.dtype == "float32" and "bf16" in recipe.export.formats
    assert recipe.attack["rtt"].epochs == 3 and recipe.attack["rtt"].patience == 0 and not recipe.attack["rtt"].bf16


@pytest.mark.parametrize("name", SETS)
def test_in_bfloat16_everything_is_computed_in_it(name, tmp_path):
    recipe = cell(name, Way(bf16=True), tmp_path)
    assert recipe.model.dtype == "bfloat16" and "bf16" not in recipe.export.formats
    assert recipe.attack["rtt"].bf16 and all(method.settings["bf16"] for method in recipe.methods)
    assert recipe.model.scratch is None or recipe.model.scratch.bf16
