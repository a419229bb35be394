"""What a recipe can say of positive controls and of noise transforms."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import load_recipe

RECIPE = """\
name: controls
model: {scratch: {hidden_size: 64}}
data: {planted: {forget: 8, retain: 8}}
methods: [{name: npo, loss_type: npo}]
controls:
  - name: hidden
    kind: bin_hidden
    expected: failed
    parameters: PARAMETERS
export: {formats: [bnb-fp4, noise-fp4-1, noise-fp4-2]}
"""


def write(folder: Path, parameters: str, **changes: str) -> Path:
    text = RECIPE.replace("PARAMETERS", parameters)
    for old, new in changes.items():
        text = text.replace(old, new)
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_control_takes_its_grid(tmp_path):
    recipe = load_recipe(write(tmp_path, "{grid: fp4, margin: 0.1}"))
    assert recipe.controls[0].parameters == {"grid": "fp4", "margin": 0.1}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("{grid: fp5}", "did you mean 'fp4'"),
        ("{gird: fp4}", "did you mean 'grid'"),
        ("{margin: 0.7}", "from 0 to below 0.5"),
        ("{margin: wide}", "it must be a number"),
    ],
)
def test_wrong_parameters_are_refused_with_their_line(tmp_path, parameters, words):
    with pytest.raises(RequestError, match=words) as caught:
        load_recipe(write(tmp_path, parameters))
    assert "recipe.yaml:9" in str(caught.value)
    assert "controls.0.parameters" in str(caught.value)


def test_parameters_are_for_trained_controls(tmp_path):
    with pytest.raises(RequestError, match="parameters are only for controls that are trained"):
        load_recipe(write(tmp_path, "{grid: fp4}", bin_hidden="never_knew", failed="passed"))


def test_noise_judges_only_where_the_gate_names_it(tmp_path):
    path = write(tmp_path, "{grid: fp4}")
    assert load_recipe(path).gate.formats == ("bnb-fp4",)
    path.write_text(path.read_text() + "gate: {formats: [bnb-fp4, noise-fp4-1]}\n")
    assert load_recipe(path).gate.formats == ("bnb-fp4", "noise-fp4-1")


def test_stepping_is_a_setting_of_a_method(tmp_path):
    path = write(tmp_path, "{grid: fp4}")
    path.write_text(path.read_text().replace("loss_type: npo}", "loss_type: npo, stepping: bf16}"))
    assert load_recipe(path).methods[0].settings["stepping"] == "bf16"
    path.write_text(path.read_text().replace("stepping: bf16", "stepping: bf17"))
    with pytest.raises(RequestError, match="stepping"):
        load_recipe(path)
