"""Which rows methods are trained on to keep: all of the retain set or a part, generic text, further sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from hf_unlearn.data.example import Example
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import load_recipe
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages.context import RunContext, Subject
from hf_unlearn.stages.data import load_bundle
from hf_unlearn.stages.plans import training_plans
from hf_unlearn.stages.retain_rows import at_hand

RECIPE = """\
name: part
model: {{scratch: {{}}}}
data:
  planted: {{forget: 8, retain: 20, practice: 0, holdout: 0, generic: 6}}
{data}
methods: [{{name: one, max_steps: 2}}]
evaluate: {{metrics: [probability]}}
"""
ROWS = tuple(Example(f"{fact}-{number}", "", "x", f"{fact}", f"{fact}") for fact in range(20) for number in range(3))


def plan(folder: Path, data: str):
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=data))
    return plan_of(path)


def plan_of(path: Path):
    recipe, folder = load_recipe(path), path.parent
    context = RunContext(recipe, folder, load_bundle(recipe), Workers(0), Progress(Console(quiet=True)))
    (found,) = training_plans(context, Subject("target", "target", folder, "digest"), None)
    return context.bundle, found


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.1, 2), (0.5, 10), (1.0, 20)])
def test_whole_groups_are_drawn(share, count):
    drawn = at_hand(ROWS, share, 0)
    assert len({row.group for row in drawn}) == count and len(drawn) == 3 * count
    assert list(drawn) == [row for row in ROWS if row in drawn]


def test_the_seed_decides():
    assert at_hand(ROWS, 0.5, 0) == at_hand(ROWS, 0.5, 0) != at_hand(ROWS, 0.5, 1)


def test_methods_see_a_part_and_everything_is_scored(tmp_path):
    bundle, found = plan(tmp_path, "  retain_at_hand: 0.1")
    assert len({row.fact for row in found.bundle.retain.train}) == 2
    assert found.bundle.retain.score == bundle.retain.score
    assert len({row.fact for row in bundle.retain.train}) == 20  # what the target is built from


def test_generic_text_alone(tmp_path):
    bundle, found = plan(tmp_path, "  retain_at_hand: 0\n  keep_generic: true")
    assert found.bundle.retain.train == bundle.generic.train


FILES = """\
name: files
model: {{scratch: {{}}}}
data:
  forget: {{path: {folder}/forget.jsonl}}
  retain: {{path: {folder}/retain.jsonl}}
  extra: {{world: {{path: {folder}/world.jsonl}}, authors: {{path: {folder}/authors.jsonl}}}}
  keep_extra: [{kept}]
methods: [{{name: one, max_steps: 2}}]
evaluate: {{metrics: [probability]}}
"""


def files_plan(folder: Path, kept: str):
    for name in ("forget", "retain", "world", "authors"):
        lines = [json.dumps({"question": f"{name} {n}?", "answer": f"{name} says {n}"}) for n in range(4)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    path = folder / "recipe.yaml"
    path.write_text(FILES.format(folder=folder, kept=kept))
    return plan_of(path)


def test_further_sets_are_kept_where_the_recipe_says_so(tmp_path):
    bundle, found = files_plan(tmp_path, "world")
    assert found.bundle.retain.train == bundle.retain.train + bundle.extra["world"].train
    assert found.unit.inputs["keep_extra"] == ["world"]
    assert "keep_extra" not in files_plan(tmp_path, "")[1].unit.inputs


def test_a_further_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"data\.keep_extra names 'wrld': did you mean 'world'"):
        files_plan(tmp_path, "wrld")


def test_the_share_is_part_of_the_unit(tmp_path):
    whole = plan(tmp_path, "")[1].unit.inputs
    part = plan(tmp_path, "  retain_at_hand: 0.1")[1].unit.inputs
    assert "retain_at_hand" not in whole  # what was trained before there was a choice is still found
    assert part == {**whole, "retain_at_hand": 0.1}
