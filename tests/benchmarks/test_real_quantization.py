"""What is left in each precision, pooled by hand, and the page that is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.real import quantization
from benchmarks.real.quantization import (
    CELLS,
    CONDITIONS,
    Cell,
    figure,
    keep,
    kept,
    knowledge_left,
    outcomes_of,
    page,
    pooled,
    read_kept,
    recipe,
)
from hf_unlearn.recipe import load_recipe

USEFUL_ONE, BROKEN = CELLS[0], CELLS[1]


def report() -> dict:
    """A target, one model that forgets in full precision and not in NF4, and one that lost its utility."""
    scores = []
    for name, left, in_nf4, retain in (
        ("target", 0.4, 0.4, 0.5),
        (USEFUL_ONE.name, 0.04, 0.2, 0.45),
        (BROKEN.name, 0.0, 0.0, 0.1),
    ):
        for place in CONDITIONS:
            value = in_nf4 if place == "bnb-nf4" else left
            for split, probability in (("forget", value), ("retain", retain)):
                for metric, score in (("probability", probability), ("mc_accuracy", 0.25 + 1.5 * probability)):
                    scores.append(
                        {"model": name, "split": split, "transform": place, "metric": metric, "value": score}
                    )
    explained = {"model": USEFUL_ONE.name, "lost_in_bf16": 0.7, "grids": {"nf4": {"codes_changed": 0.003}}}
    return {
        "scores": scores,
        "explanation": {"models": [explained]},
        "environment": {"versions": {"torch": "2", "transformers": "5"}},
        "created": "2026-12-01T00:00:00",
    }


@pytest.fixture
def outcomes():
    return outcomes_of(report(), 0, [USEFUL_ONE, BROKEN])


def test_what_is_left_is_beyond_a_guess_and_over_the_target_as_it_stands(outcomes):
    target, useful, broken = outcomes
    assert knowledge_left(useful, target, "identity") == pytest.approx({"probability": 0.1, "mc_accuracy": 0.1})
    assert knowledge_left(useful, target, "bnb-nf4") == pytest.approx({"probability": 0.5, "mc_accuracy": 0.5})
    assert knowledge_left(broken, target, "bnb-nf4") == {"probability": 0.0, "mc_accuracy": 0.0}
    assert kept(useful, target) == pytest.approx(0.9) and kept(broken, target) == pytest.approx(0.2)


def test_only_methods_that_keep_their_utility_are_pooled(outcomes):
    assert pooled(outcomes, "bnb-nf4") == (pytest.approx(0.5), 1)
    assert pooled(outcomes, "identity", stepping=USEFUL_ONE.stepping) == (pytest.approx(0.1), 1)
    left, count = pooled(outcomes, "identity", stepping=BROKEN.stepping)
    assert count == 0 and left != left, "nothing to pool is no number"


def test_the_page_and_the_plot_are_made_of_what_is_kept(outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "KEPT", tmp_path / "kept.json")
    assert keep(outcomes) == outcomes == read_kept()
    text = page(read_kept())
    assert "| npo + kl | 5e-06 | 24 | float32 | 0.040 / 0.31 |" in text and "| 70 % | 0.3 % |" in text
    assert "| float32 | 1 | 10 % | 10 % | 50 % | 10 % | 10 % |" in text
    assert [len(panel.lines) for panel in figure(outcomes).axes] == [2, 2]


def test_the_committed_page_is_made_of_the_committed_outcomes():
    assert quantization.PAGE.read_text(encoding="utf-8") == page(read_kept())


def test_every_way_of_unlearning_is_a_method_of_one_recipe(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe(3, CELLS)), encoding="utf-8")  # JSON is YAML
    made = load_recipe(path)
    assert [method.name for method in made.methods] == [cell.name for cell in CELLS]
    assert {method.settings.get("stepping", "fp32") for method in made.methods} == {"fp32", "bf16"}
    assert not made.attack and made.model.dtype == "float32" and made.data.world.seed == 3
    assert Cell("ga", "nll", 2e-5, 3, "bfloat16").name == "ga-nll-2e-5-3-bfloat16"
