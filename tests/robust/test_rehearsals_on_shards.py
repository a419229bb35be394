"""Rehearsed attacks and averages of sharded weights: two processes make the run of one, and resume within a rehearsal.

accelerate falls back to DDP in silence, so each engine's test looks at what really ran.
"""

import copy
import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from test_sharded_processes import WAYS
from tiny_run import logged, tiny_model, tiny_tokenizer, tiny_trainer, weights
from two_processes import run_job

REHEARSED = {
    **{"name": "cycles", "unlearn_steps": 2, "heal_steps": 1, "rounds": 2, "until_gone": True},
    # Three of eight facts: one process has a row more than the other in each step of a rehearsal.
    **{"rehearse_steps": 2, "rehearse_rate": 0.3, "rehearse_share": 0.4},
}
SETTINGS = {
    **{"loss_type": "ga", "retain_loss_type": "kl", "max_steps": 6, "logging_steps": 1},
    "robust": [REHEARSED, {"name": "weight-averaging", "start": 0.3}],
    # With the usual epsilon Adam makes of a rounding error in a gradient near zero a whole step.
    **{"learning_rate": 0.003, "adam_epsilon": 1e-3, "train_sampling_strategy": "sequential"},
}
SHARED = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
WITHIN_A_REHEARSAL = "checkpoint-4"
"""One step after the second rehearsal, which is taken back two steps later."""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    tiny_model(tie=True).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    trainer = tiny_trainer(tmp_path_factory.mktemp("alone"), model=start, per_device_train_batch_size=4, **SETTINGS)
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("engine", list(WAYS))
def test_rehearsals_are_learned_and_taken_back_shard_by_shard(tmp_path, start, alone, engine):
    if engine.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    way, kind, in_pieces = WAYS[engine]
    settings = {**SETTINGS, **SHARED, **copy.deepcopy(way), "save_strategy": "steps", "save_steps": 2}
    job = {"model": start, "settings": settings, "saved": "saved", "again": WITHIN_A_REHEARSAL}
    made = run_job(tmp_path, job, timeout=480)
    assert (made["type"], made["again_type"], made["processes"], made["steps_of_momentum"]) == (kind, kind, 2, [1])
    whole = max(parameter.numel() for parameter in tiny_model().parameters())
    assert made["largest"] <= whole / 2 if in_pieces else made["largest"] == whole

    for one, two in zip(logged(alone), made["log"], strict=True):
        measured = one.keys() & {"loss", "loss/forget", "loss/retain", "kl/retain", "grad_norm"}
        assert measured and one.keys() == two.keys()
        for key in measured:
            assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-6)
    found, looked = alone.parts[0].outcome(), made["told"][0]
    # Each process counts what it puts through the model, in rows that are padded less.
    assert 0.3 < looked["floating_point_ops"] / found["floating_point_ops"] < 0.7
    assert looked["brought_back"] == pytest.approx(found["brought_back"], abs=1e-4)
    assert {key: looked[key] for key in ("facts_left", "facts_below_chance")} == {
        key: found[key] for key in ("facts_left", "facts_below_chance")
    }
    saved, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("saved", "again"))
    for name, value in weights(alone.model).items():
        if name in saved:
            torch.testing.assert_close(saved[name], value, rtol=1e-3, atol=1e-4)
            assert torch.equal(saved[name], resumed[name])
    shards = sorted(path.name for path in (tmp_path / "work" / WITHIN_A_REHEARSAL / "parts").iterdir())
    kept = ("cycles_rehearsal", "weight_averaging")
    assert shards == [f"{name}{which}.safetensors" for name in kept for which in ("-0-of-2", "-1-of-2", "")]
