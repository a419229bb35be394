"""The page of attacks that were not rehearsed, and the recipe they are run by."""

from __future__ import annotations

import yaml

from benchmarks.frontier.cells import NEVER, Cell
from benchmarks.frontier.kinds import CONDITIONS, KINDS
from benchmarks.frontier.methods import METHODS, PLAIN
from benchmarks.frontier.outcome import JUDGED
from benchmarks.frontier.unseen import UNSEEN, page
from hf_unlearn.recipe import load_recipe


def test_every_attack_is_one_that_recipes_accept(tmp_path):
    cell = Cell(KINDS["years"], 0, [METHODS[PLAIN].entry()], tmp_path, formats=False, attacks=UNSEEN)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(cell.recipe()))
    assert set(load_recipe(path).attack) == set(UNSEEN)


def test_every_condition_is_a_recipe(tmp_path):
    for kind in CONDITIONS.values():
        path = tmp_path / f"{kind.name}.yaml"
        path.write_text(yaml.safe_dump(Cell(kind, 0, [METHODS["auto"].entry()], tmp_path).recipe()))
        load_recipe(path)


def test_the_page_has_a_line_for_each_attack_and_a_dash_where_nothing_was_measured():
    row = {"model": PLAIN, "metric": JUDGED[0], "ci95": [0.1, 0.3], "recovered_share": 0.2}
    report = {
        "recovered": [
            {**row, "transform": "rtt-lora"},
            {**row, "transform": "prune", "recovered_share": None, "ci95": None},
        ]
    }
    lines = page(report, [PLAIN, NEVER], "years", 0).splitlines()
    assert "| rtt-lora | 0.20 [0.10, 0.30] | – | – | – |" in lines
    assert "| prune | – | – | – | – |" in lines
    assert len([line for line in lines if line.split(" | ")[0].removeprefix("| ") in UNSEEN]) == len(UNSEEN)
