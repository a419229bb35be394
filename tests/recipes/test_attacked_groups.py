"""Recipes for TOFU ask about enough authors for a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.recipe import load_recipe
from hf_unlearn.recipe.attacks import fit_to_data

RECIPES = sorted(path for path in (Path(__file__).parents[2] / "recipes").glob("*tofu*.yaml"))


def like_tofu() -> DataBundle:
    """Twenty authors with twenty questions each."""
    rows = tuple(
        Example(
            id=f"{author}-{number}",
            prompt=f"Question {number} about {author}?",
            answer=f"{author} answers {number}",
            fact=f"{author}-{number}",
            group=f"author-{author}",
            choices=(f"{author} answers {number}", "another answer"),
        )
        for author in range(20)
        for number in range(20)
    )
    return DataBundle(RowSet(rows, rows), RowSet(rows, rows))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_judged_attack_can_give_a_verdict(path):
    recipe = load_recipe(path)
    assert recipe.attack
    assert fit_to_data(recipe, like_tofu()) == (recipe, {})


def test_two_folds_would_be_too_few():
    recipe = load_recipe(RECIPES[0])
    (attack,) = (attack for name, attack in recipe.attack.items() if name == "rtt")
    assert attack.asked_groups(like_tofu()) >= 10
    assert type(attack)(folds=5, run_folds=2).asked_groups(like_tofu()) == 8
