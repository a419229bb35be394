"""From YAML to a checked recipe: what is filled in, what arrives where, and that our own recipes are in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe import ControlSpec, Recipe, builtin_recipes, find_recipe, load_recipe
from hf_unlearn.recipe.method_settings import completed, make_config

SMALL = """\
name: small
model: {scratch: {}}
data: {planted: {}}
methods:
  - {name: one, loss_type: ga, retain_loss_type: nll, learning_rate: 1e-4, robust: [sure]}
"""


def recipe_of(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def refusal(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        recipe_of(tmp_path, SMALL, *overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", builtin_recipes())
def test_recipes_of_the_package_are_valid(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    for method in recipe.methods:
        config = make_config(method.settings, tmp_path, recipe.seed)
        assert config.loss_type == completed(method.settings).get("loss_type", "npo")
    for control in recipe.controls:
        if control.settings:
            make_config({**control.settings, "control": control.kind}, tmp_path, recipe.seed)


@pytest.mark.parametrize("name", builtin_recipes())
def test_recipes_of_the_package_survive_being_written_down(name, tmp_path):
    """What ``run.json`` holds is the whole recipe: reading it again gives the same one."""
    recipe = load_recipe(name)
    assert recipe_of(tmp_path, yaml.safe_dump(recipe.to_dict())) == recipe


def test_a_method_keeps_what_was_written(tmp_path):
    recipe = recipe_of(tmp_path, SMALL, "methods.0.beta=2e-1", "methods.0.robust=[{name: sure, percentile: 75}]")
    (method,) = recipe.methods
    assert recipe.method("one") is method
    assert method.settings == {
        "loss_type": "ga",
        "retain_loss_type": "nll",
        "learning_rate": 1e-4,
        "beta": 0.2,
        "robust": [{"name": "sure", "percentile": 75}],
    }


def test_several_methods_need_names_of_their_own(tmp_path):
    both = "  - {name: two, loss_type: npo}\n"
    assert [method.name for method in recipe_of(tmp_path, SMALL + both).methods] == ["one", "two"]
    with pytest.raises(RequestError, match=r"r\.yaml:6: the method name 'one' is taken"):
        recipe_of(tmp_path, SMALL + both.replace("two", "one"))


def test_attacks_become_their_settings(tmp_path):
    recipe = recipe_of(tmp_path, SMALL + "attack:\n  rtt: {folds: 3, learning_rates: [1e-4]}\n")
    assert recipe.attack == {"rtt": RTT(folds=3, learning_rates=(1e-4,))}
    assert recipe_of(tmp_path, SMALL + "attack:\n  rtt:\n").attack == {"rtt": RTT()}
    assert recipe_of(tmp_path, SMALL + "attack:\n").attack == recipe_of(tmp_path, SMALL).attack == {}


def test_the_gate_judges_what_is_made_unless_told(tmp_path):
    text = (
        SMALL + "export: {formats: [bnb-nf4, bf16]}\nattack: {rtt: {}}\nevaluate: {metrics: [probability, rouge_l]}\n"
    )
    gate = recipe_of(tmp_path, text).gate
    assert (gate.formats, gate.attacks, gate.metrics) == (("bnb-nf4", "bf16"), ("rtt",), ("probability",))
    told = "gate: {formats: [bf16], attacks: [], metrics: [rouge_l], min_utility: 0.5}\n"
    gate = recipe_of(tmp_path, text + told).gate
    assert (gate.formats, gate.attacks, gate.metrics, gate.min_utility) == (("bf16",), (), ("rouge_l",), 0.5)
    gate = recipe_of(tmp_path, text + "gate: {draws: 500}\n").gate
    assert (gate.formats, gate.attacks, gate.metrics, gate.draws) == (
        ("bnb-nf4", "bf16"),
        ("rtt",),
        ("probability",),
        500,
    )


def test_controls_are_read(tmp_path):
    controls = """\
controls:
  - {name: other, kind: never_knew, expected: passed, seed: 7}
  - {name: one, kind: method, method: one, expected: failed, caught_by: [rtt]}
  - name: hidden
    kind: bin_hidden
    expected: failed
    caught_by: [identity, bnb-nf4]
    settings: {max_steps: 3}
    min_retain_score: 0.9
"""
    recipe = recipe_of(tmp_path, SMALL + "attack: {rtt: {}}\n" + controls)
    assert recipe.controls == (
        ControlSpec("other", "never_knew", "passed", seed=7),
        ControlSpec("one", "method", "failed", ("rtt",), method="one"),
        ControlSpec(
            "hidden", "bin_hidden", "failed", ("identity", "bnb-nf4"), settings={"max_steps": 3}, min_retain_score=0.9
        ),
    )


def test_a_control_is_caught_only_by_what_the_gate_judges(tmp_path):
    control = "controls=[{name: c, kind: bin_hidden, expected: failed, caught_by: [bnb-int8]}]"
    assert recipe_of(tmp_path, SMALL, control).controls[0].caught_by == ("bnb-int8",)
    assert "which the gate does not judge" in refusal(tmp_path, control, "gate.formats=[bnb-nf4]")
    passing = "controls=[{name: c, kind: never_knew, expected: passed, caught_by: [bnb-nf4]}]"
    assert "caught_by is only for controls that are expected to fail" in refusal(tmp_path, passing)


def test_the_setting_to_blame_is_found_even_where_the_message_does_not_name_it(tmp_path):
    text = SMALL.replace("{name: one, loss_type: ga", "name: one\n    beta: 0.1\n    loss_kwargs: {gamma: 1}\n    #")
    with pytest.raises(RequestError, match=r"r\.yaml:7: methods\.0\.loss_kwargs: forget loss 'npo' has no parameter"):
        recipe_of(tmp_path, text)


def test_dates_stay_text_and_numbers_may_be_names(tmp_path):
    assert recipe_of(tmp_path, SMALL, "name=2024-01-01").name == "2024-01-01"
    assert recipe_of(tmp_path, SMALL, "name=7").name == "7"


def test_a_file_wins_over_a_recipe_of_the_package_with_its_name(tmp_path, monkeypatch):
    assert find_recipe("quickstart") == builtin_recipes()["quickstart"]
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text(SMALL)
    assert find_recipe("quickstart") == Path("quickstart")
    assert load_recipe("quickstart").name == "small"
