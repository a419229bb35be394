"""Settings of attacks that retrain: what fingerprints and reports are made of, held against what it always was."""

from __future__ import annotations

import json

import pytest
from attack_runs import assert_defaults_are_those_of_the_class

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.recipe.plain import plain
from hf_unlearn.stages.units import fingerprint

SWEEP = {"warmup_steps": 0, "tuning": "full", "lora_rank": 16, "patience": 0, "seed": 0}
RTT = {
    "folds": 5,
    "run_folds": None,
    "learning_rates": (0.0001, 0.0003, 0.001),
    "epochs": 6,
    "batch_size": 16,
    "warmup_steps": 24,
    "form": "rows",
    "asked_by": "rows",
    "loss_tokens": "answer",
    "max_tokens": None,
    "tuning": "full",
    "lora_rank": 16,
    "lora_targets": (),
    "optimizer": "adamw",
    "dtype": "float32",
    "max_grad_norm": 1.0,
    "patience": 8,
    "leaks": "apart",
    "seed": 0,
}
SETTINGS = {
    "rtt": RTT,
    "rtt-paper": {
        **RTT,
        "run_folds": 2,
        "learning_rates": (1e-07, 2e-07, 4e-07, 8e-07, 1.6e-06, 3.2e-06),
        "batch_size": 4,
        "form": "multiple-choice",
        "asked_by": "letters",
        "loss_tokens": "all",
        "max_tokens": 512,
        "optimizer": "lion",
        "dtype": "float16",
        "max_grad_norm": 0.0,
        "patience": 0,
        "seed": 4,
        "order_seed": 0,
    },
    "relearn": {**SWEEP, "examples": 20, "learning_rates": (1e-05, 0.0001, 0.001), "epochs": 5, "batch_size": 8},
    "relearn-all": {**SWEEP, "learning_rates": (2e-05,), "epochs": 1, "batch_size": 32, "schedule": "linear"},
    "finetune-retain": {**SWEEP, "learning_rates": (1e-05, 0.0001, 0.001), "epochs": 2, "batch_size": 16},
    "finetune-generic": {**SWEEP, "learning_rates": (1e-05, 0.0001, 0.001), "epochs": 2, "batch_size": 16},
}
"""Settings at their defaults: a finished unit of an attack is found by exactly these keys and values."""
FINGERPRINTS = {
    "rtt": "c79fd82cba9009fa01ef6ed01499654d14f9c446f1da19f03422b2f85ecf9a98",
    "rtt-paper": "c0b72c0f690f91fe2cc79e58147ea713706ea6ebb90e33746ea3155dde3d83b4",
    "relearn": "8209596bb181f18eb280a9a330348cf10020a051befc1a291e5e8e718883c2c2",
    "relearn-all": "2da85da6427a1ded3aeddf3b8a7bea8e9af224936b10a731ab754e3dbe054e10",
    "finetune-retain": "55cb1b6f72d9f9b87f9ada6289cdd12c0a603e9a0b23d308808c0e3c20aa2757",
    "finetune-generic": "55cb1b6f72d9f9b87f9ada6289cdd12c0a603e9a0b23d308808c0e3c20aa2757",
}
LEAKS = {
    "handled": "apart",
    "groups": 12,
    "independent_groups": 12,
    "largest": 1,
    "sharing_a_text": 0,
    "sharing_a_name": 0,
    "sharing_words": 0,
}
FULL = {"optimizer": "AdamW, full fine-tuning in float32", "loss_tokens": "answer"}
BUDGETS = {
    "rtt": {
        "folds": 5,
        "run_folds": 5,
        "groups_in_T": 9,
        "groups_in_V": 3,
        "rows_in_T": 27,
        "leaks": LEAKS,
        "form": "rows",
        "asked_by": "rows",
        "learning_rates": [0.0001, 0.0003, 0.001],
        "epochs": 6,
        "steps_per_rate": 12,
        **FULL,
        "gives_up_after": 8,
    },
    "rtt-paper": {
        "folds": 5,
        "run_folds": 2,
        "groups_in_T": 9,
        "groups_in_V": 3,
        "rows_in_T": 18,
        "leaks": LEAKS,
        "form": "multiple-choice",
        "asked_by": "letters",
        "learning_rates": [1e-07, 2e-07, 4e-07, 8e-07, 1.6e-06, 3.2e-06],
        "epochs": 6,
        "steps_per_rate": 30,
        "optimizer": "Lion, full fine-tuning in float16",
        "loss_tokens": "all",
    },
    "relearn": {
        "facts_trained_on": 4,
        "facts_asked_for": 8,
        "learning_rates": [1e-05, 0.0001, 0.001],
        "epochs": 5,
        "steps_per_rate": 10,
        **FULL,
    },
    "relearn-all": {
        "facts_trained_on": 12,
        "facts_asked_for": 12,
        "learning_rates": [2e-05],
        "epochs": 1,
        "steps_per_rate": 2,
        **FULL,
        "schedule": "linear decay to zero",
    },
    "finetune-retain": {
        "trained_on": "retain",
        "rows": 24,
        "learning_rates": [1e-05, 0.0001, 0.001],
        "epochs": 2,
        "steps_per_rate": 4,
        **FULL,
    },
    "finetune-generic": {
        "trained_on": "generic",
        "rows": 4,
        "learning_rates": [1e-05, 0.0001, 0.001],
        "epochs": 2,
        "steps_per_rate": 2,
        **FULL,
    },
}
"""What reports say of each, at defaults (``relearn`` on four examples), in this order of keys."""


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_at_their_defaults_give_the_fingerprints_they_always_gave(name):
    settings = plain(ATTACKS.get(name).value())
    assert settings == json.loads(json.dumps(SETTINGS[name]))
    assert fingerprint(settings) == FINGERPRINTS[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_another_optimizer_gives_another_fingerprint(name):
    changed = plain(ATTACKS.get(name).value(optimizer="adamw_8bit"))
    assert changed["optimizer"] == "adamw_8bit"
    assert fingerprint(changed) != FINGERPRINTS[name]


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_are_what_reports_always_said(name):
    bundle = make_planted(PlantedSpec(forget=12, retain=8, holdout=0, practice=4, generic=4, first_year=1960))
    attack = ATTACKS.get(name).value(**({"examples": 4} if name == "relearn" else {}))
    assert json.dumps(attack.budget(bundle)) == json.dumps(BUDGETS[name])


@pytest.mark.parametrize("name", SETTINGS)
def test_registered_defaults_are_those_of_the_settings(name):
    assert_defaults_are_those_of_the_class(ATTACKS.get(name))


def test_the_published_relearning_decays_linearly_as_the_trainer_does():
    """Four steps at 2e-5: the whole rate, then three, two and one quarters of it."""
    attack = ATTACKS.get("relearn-all").value()
    rates = [attack.learning_rates[0] * attack.rate_factor(step, 4) for step in range(4)]
    assert rates == pytest.approx([2.0e-5, 1.5e-5, 1.0e-5, 0.5e-5], rel=1e-12)
    thirteen = sum(attack.rate_factor(step, 13) for step in range(13))
    assert thirteen == pytest.approx(7.0)  # 13 steps at a constant rate are 1.86 times as much


def test_the_decay_begins_after_the_warm_up():
    attack = ATTACKS.get("relearn-all").value(warmup_steps=2)
    assert [attack.rate_factor(step, 6) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"relearn-all"}))
def test_all_other_attacks_keep_a_constant_rate(name):
    attack = ATTACKS.get(name).value(warmup_steps=4)
    assert [attack.rate_factor(step, 8) for step in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert ATTACKS.get("relearn-all").value(schedule="constant").rate_factor(7, 8) == 1.0


def test_the_order_of_rows_of_the_published_attack_is_not_seeded_by_its_split():
    attack = ATTACKS.get("rtt-paper").value()
    assert (attack.seed, attack.order) == (4, 0)
    assert ATTACKS.get("rtt").value(seed=4).order == 4
