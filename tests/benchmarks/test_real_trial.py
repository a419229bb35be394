"""A try on a tuning seed: what its recipe leaves out, and the line that tells of it."""

from __future__ import annotations

import json

import pytest
import yaml

from benchmarks.real import trial
from benchmarks.real.outcome import outcome_of
from hf_unlearn.recipe import load_recipe
from tests.benchmarks.test_real import REPORT

METHOD = {"name": "longer", "num_train_epochs": 94, "learning_rate": 3.1e-5}


def test_a_try_is_the_set_with_one_format_and_some_folds(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(trial.recipe("capitals", 100, METHOD)))
    recipe = load_recipe(path)
    assert recipe.seed == 100 and recipe.data.world.seed == 100
    assert recipe.export.formats == ("bnb-nf4",)
    (method,) = recipe.methods
    assert method.name == "longer" and method.settings["num_train_epochs"] == 94
    assert method.settings["robust"] == "auto" and method.settings["bf16"] is True
    assert "paraphrase" not in recipe.attack and (recipe.attack["rtt"].run_folds, recipe.attack["rtt"].epochs) == (
        3,
        12,
    )


def test_a_line_names_settings_what_came_of_them_and_the_cost(monkeypatch, tmp_path):
    outcome = outcome_of(REPORT, {"floating_point_ops": 3e12}, "capitals", 100, "auto")
    plain = outcome_of(REPORT, {"floating_point_ops": 1e12}, "capitals", 0, "npo-kl")
    monkeypatch.setattr(trial, "read_kept", lambda: [plain])
    others = {"languages": 0.9, "continents": 0.7}
    line = {
        "method": METHOD,
        "note": "old texts",
        "parts": {"auto": {"rounds": 31, "facts_left": [82, 9, 0]}},
        "outcome": {**outcome.plain(), "others": others},
    }
    row = trial.page([json.loads(json.dumps(line))]).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells[:6] == [
        "capitals",
        "100",
        '`{"num_train_epochs": 94, "learning_rate": 3.1e-05}`',
        "old texts",
        "31",
        "0",
    ]
    assert cells[-3:] == ["0.70 (continents)", "", "3.0"] and "0 of 200 / " in row and " / 2 of 120" in row


def test_seeds_of_the_table_are_refused():
    with pytest.raises(SystemExit):
        trial.arguments_of(['{"name": "a"}', "--seed", "0"])
