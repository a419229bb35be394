"""The one list of what a run leaves out."""

from __future__ import annotations

from pathlib import Path

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.quantization import FORMATS
from hf_unlearn.recipe import Recipe, load_recipe
from hf_unlearn.stages.report_inputs import not_tested, untested_formats

RECIPE = """\
name: small
model: {scratch: {}}
data: {planted: {}}
methods:
  - {name: one, loss_type: ga, retain_loss_type: nll, learning_rate: 1.0e-4}
export: {formats: [bnb-nf4, bnb-fp4, noise-nf4-1]}
gate: {formats: [bnb-nf4], attacks: [prune]}
attack:
  prune: {}
  interpolate: {}
  gentle: {attack: rtt, learning_rates: [1.0e-6]}
"""


def small(folder: Path) -> Recipe:
    path = folder / "r.yaml"
    path.write_text(RECIPE)
    return load_recipe(path)


def test_what_is_run_and_not_judged_is_no_part_of_it(tmp_path: Path) -> None:
    recipe = small(tmp_path)
    formats, attacks, *others = not_tested(recipe)
    assert "fp4," not in formats and "noise" not in formats
    names = attacks.removeprefix("the attacks ").split(", ")
    assert set(ATTACKS.names()) - set(names) == {"prune", "interpolate", "rtt"}
    assert "membership inference" in others


def test_formats_are_named_by_family() -> None:
    published = [entry.name for entry in FORMATS.entries() if entry.value.published]
    nothing = untested_formats([])
    assert "all of gguf-…" in nothing and "all of bnb-…" in nothing and "bf16" in nothing
    assert not any("noise" in part for part in nothing)
    for family in {name.partition("-")[0] for name in published}:
        assert sum(part.removeprefix("all of ").partition("-")[0] == family for part in nothing) == 1, family
    assert "others of bnb-…" in untested_formats(["bnb-nf4"])
    assert untested_formats([name for name in published if name != "bnb-nf4"]) == ["bnb-nf4"]
    assert untested_formats(published) == []
