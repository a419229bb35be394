"""Built-in recipes ask about enough groups for their gates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.data.planted import make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import load_recipe
from hf_unlearn.recipe.attacks import fit_to_data

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*tofu*.yaml"))
QUESTIONS = {
    **dict.fromkeys(("muse-books", "muse-news", "audit-muse-books", "audit-muse-news"), 100),
    **{"wmdp": 1987, "rtt-years": 785, "years": 789, "lkf": 100, "lume-1b": 250, "knowundo": 500},
    **{"audit-hubble-1b": 1000, "audit-hubble-8b": 1000, "audit-deep-ignorance": 1273},
}
"""Independent questions about the forget set, in the recipes with one question a group."""


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


def of_questions(count: int) -> DataBundle:
    """As many facts, each a group of its own, with four options and two other wordings."""
    rows = tuple(
        Example(
            f"q{n}",
            f"Question {n}?",
            "yes",
            f"q{n}",
            f"q{n}",
            choices=("yes", "no", "maybe", "never"),
            other_prompts=(f"Is it {n}?", f"Tell {n}."),
        )
        for n in range(count)
    )
    return DataBundle(RowSet(rows, rows), RowSet(rows, rows))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_built_in_gate_can_be_met(path):
    recipe = load_recipe(path)
    if path in RECIPES:
        bundle = like_tofu()
    elif path.stem in QUESTIONS:
        bundle = of_questions(QUESTIONS[path.stem])
    elif recipe.data.world is not None:  # each subject is a group
        bundle = of_questions(recipe.data.world.forget)
    else:  # planted facts are what they are
        bundle = make_planted(recipe.data.planted)
    fitted, left_out = fit_to_data(recipe, bundle)
    assert (fitted.gate, left_out) == (recipe.gate, {})


def test_twenty_authors_cannot_show_what_two_hundred_facts_could():
    """Twenty authors with twenty questions each are twenty units, not four hundred."""
    recipe = load_recipe(RECIPES[0])
    strict = replace(recipe, gate=replace(recipe.gate, max_recovered_share_formats=0.10))
    with pytest.raises(RequestError, match="20 independent groups of facts, and 36 are the least"):
        fit_to_data(strict, like_tofu())


def test_three_folds_would_be_too_few():
    recipe = load_recipe(RECIPES[0])
    (attack,) = (attack for name, attack in recipe.attack.items() if name == "rtt")
    assert attack.asked_groups(like_tofu()) == 20
    assert type(attack)(folds=5, run_folds=3).asked_groups(like_tofu()) == 12
