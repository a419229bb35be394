"""The shortest recipe, which tests of the attack section add to."""

from __future__ import annotations

from pathlib import Path

from hf_unlearn.recipe import Recipe, load_recipe

SMALL = """\
name: small
model: {scratch: {}}
data: {planted: {}}
methods:
  - {name: one, loss_type: ga, retain_loss_type: nll, learning_rate: 1.0e-4}
"""


def recipe_of(folder: Path, text: str, *overrides: str) -> Recipe:
    """The recipe that a file ``r.yaml`` with this text is."""
    path = folder / "r.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)
