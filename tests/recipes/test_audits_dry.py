"""Audits of public pairs, planned at tiny size: their own settings, on local models and rows in place of the Hub's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_recipes_train import model, stand_in  # noqa: F401 - a fixture

from hf_unlearn.cli.main import main
from hf_unlearn.recipe import builtin_recipes, load_recipe

AUDITS = sorted(name for name in builtin_recipes() if name.startswith("audit-"))
REAL_PAIRS = {
    # target, never-knew model, and the checkpoints that are judged: as their public code names them
    "audit-hubble-1b": (
        "allegrolab/hubble-1b-100b_toks-perturbed-hf",
        "allegrolab/hubble-1b-100b_toks-standard-hf",
        ["allegrolab/hubble-1b-100b_toks-injectrange_0_25-hf", "allegrolab/hubble-1b-100b_toks-standard-hf"],
    ),
    "audit-hubble-8b": (
        "allegrolab/hubble-8b-100b_toks-perturbed-hf",
        "allegrolab/hubble-8b-100b_toks-standard-hf",
        ["allegrolab/hubble-8b-100b_toks-standard-hf"],
    ),
    "audit-deep-ignorance": (
        "EleutherAI/deep-ignorance-unfiltered",
        "EleutherAI/deep-ignorance-e2e-strong-filter",
        ["EleutherAI/deep-ignorance-unfiltered-cb", "EleutherAI/deep-ignorance-unfiltered-cb-lat"],
    ),
    "audit-muse-news": (
        "muse-bench/MUSE-News_target",
        "muse-bench/MUSE-News_retrain",
        ["muse-bench/MUSE-News_retrain"],
    ),
}


def test_every_audit_has_a_real_never_knew_model():
    assert set(REAL_PAIRS) < set(AUDITS)
    for name in AUDITS:
        recipe = load_recipe(name)
        assert recipe.is_audit and recipe.model.never_knew and recipe.model.target, name


@pytest.mark.parametrize("name", REAL_PAIRS)
def test_the_ids_are_those_of_the_public_code(name):
    recipe, (target, never, judged) = load_recipe(name), REAL_PAIRS[name]
    assert (recipe.model.target, recipe.model.never_knew) == (target, never)
    assert [method.checkpoint for method in recipe.methods] == judged


@pytest.mark.parametrize("name", AUDITS)
def test_it_is_planned_without_a_network(name, tmp_path: Path, model, capsys):  # noqa: F811
    recipe = load_recipe(name)
    given = [f"model.target={model}", f"model.never_knew={model}", "model.dtype=float32"]
    given += [f"methods.{number}.checkpoint={model}" for number in range(len(recipe.methods))]
    data = recipe.data
    sources = {"forget": data.forget, "retain": data.retain}
    sources |= {"holdout": data.holdout} if data.holdout is not None else {}
    sources |= {f"score.{key}": source for key, source in data.score.items()}
    sources |= {f"extra.{key}": source for key, source in data.extra.items()}
    for number, (key, source) in enumerate(sources.items()):
        file = tmp_path / f"{key}.jsonl"
        stand_in(source, file, number, rows=80)
        given.append(f"data.{key}.path={file}")
        if source.rows_per_group:
            given.append(f"data.{key}.rows_per_group=4")
    code = main(["plan", name, "--flops", "1e10", "--output-dir", str(tmp_path / "out"), *given])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert re.search(rf"evaluate +{2 + len(recipe.methods)} models", told.out) or "evaluate" in told.out
    for attack in recipe.attack:
        assert attack in told.out
    assert not (tmp_path / "out").exists()
