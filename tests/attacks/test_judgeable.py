"""A gate can only judge an attack by what it measures; where that is nothing, the recipe is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_recipe import SMALL, recipe_of

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.composed import OrderedAttack
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.attacks.sampling import LeakAtK
from hf_unlearn.errors import RequestError
from hf_unlearn.verification.gate import Gate

USUAL = ("probability", "extraction_strength", "mc_accuracy", "exact_match", "rouge_l")


def test_attacks_measure_what_a_forward_pass_gives_unless_they_say_otherwise():
    found = {entry.name: entry.value().measures(USUAL) for entry in ATTACKS.entries()}
    assert found.pop("linear-probe") == ("mc_accuracy",)
    assert found.pop("leak-at-k") == ("exact_match", "rouge_l")
    assert (found.pop("activation-patching"), found.pop("tuned-lens")) == ((), ()), "diagnoses"
    assert set(found.values()) == {("probability", "extraction_strength", "mc_accuracy", "exact_match")}
    assert LeakAtK(scores=("rouge_1",)).measures(("rouge_1", *USUAL)) == ("rouge_1",)
    assert OrderedAttack("prune", Prune(), then="bnb-nf4").measures(USUAL) == Prune().measures(USUAL)


def test_every_attack_that_is_judged_by_default_measures_the_whole_default_gate():
    for entry in ATTACKS.entries():
        if entry.value.judged:
            assert entry.value().measures(Gate().metrics) == Gate().metrics, entry.name


@pytest.mark.parametrize(
    ("attack", "metrics", "mend"),
    [
        ("leak-at-k", "probability, mc_accuracy", r"add to gate\.metrics what it measures \(exact_match, rouge_l\)"),
        ("linear-probe", "probability, exact_match", r"what it measures \(mc_accuracy\)"),
        ("prune", "rouge_l", r"what it measures \(probability, .*or leave it out of gate\.attacks"),
    ],
)
def test_a_gate_that_could_not_judge_an_attack_is_refused_with_the_mend(tmp_path: Path, attack, metrics, mend):
    text = SMALL + f"attack: {{{attack}: {{}}}}\ngate:\n  metrics: [{metrics}]\n  attacks:\n    - {attack}\n"
    with pytest.raises(RequestError, match=mend) as caught:
        recipe_of(tmp_path, text)
    line = text.splitlines().index(f"    - {attack}") + 1
    assert f"r.yaml:{line}" in str(caught.value)
    assert f"gate.attacks: '{attack}' measures none of the gate's metrics ({metrics})" in str(caught.value)


@pytest.mark.parametrize("attack", ["activation-patching", "tuned-lens"])
def test_a_diagnosis_cannot_be_judged(tmp_path: Path, attack):
    text = SMALL + f"attack: {{{attack}: {{}}}}\ngate: {{attacks: [{attack}]}}\n"
    with pytest.raises(
        RequestError, match=f"'{attack}' is a diagnosis with no score that a gate could judge: leave it"
    ):
        recipe_of(tmp_path, text)


@pytest.mark.parametrize("attack", ["leak-at-k", "linear-probe"])
def test_one_metric_is_enough(tmp_path: Path, attack):
    text = SMALL + f"attack: {{{attack}: {{}}}}\n"
    text += f"gate: {{metrics: [probability, mc_accuracy, exact_match], attacks: [{attack}]}}\n"
    assert recipe_of(tmp_path, text).gate.attacks == (attack,)


def test_an_attack_that_is_only_reported_asks_nothing_of_the_gate(tmp_path: Path):
    text = SMALL + "attack: {leak-at-k: {}, prune: {}}\ngate: {metrics: [probability]}\n"
    assert recipe_of(tmp_path, text).gate.attacks == ("prune",)
