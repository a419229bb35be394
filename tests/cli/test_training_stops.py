"""Settings that only training can find wrong, and losses that stop being numbers."""

from __future__ import annotations

import pytest
from adopted_runs import adopted
from tiny_recipe import run


@pytest.mark.parametrize("rate", ["1e30", "1e12"])
def test_a_loss_that_is_not_a_number_stops_at_its_step(rate, recipe, refused, tmp_path):
    out = ("--output-dir", tmp_path / "run", "--workers", 0)
    sentence = refused(2, "run", recipe, *out, f"methods.0.learning_rate={rate}")
    assert sentence.startswith("npo-kl: the loss is nan in step 2: no step was made with it, and no checkpoint was")
    assert f"lower learning_rate (now {float(rate)})" in sentence
    assert "(the step's rows: forget forget-" in sentence and "; retain retain-" in sentence
    assert not (tmp_path / "run" / "train").exists()


def test_the_last_good_checkpoint_is_kept_and_named(recipe, refused, tmp_path):
    out = tmp_path / "run"
    # The rate rises from zero, so that it does its harm when there are checkpoints.
    rising = ("methods.0.lr_scheduler_type=constant_with_warmup", "methods.0.warmup_steps=4")
    overrides = ("methods.0.learning_rate=1e30", "methods.0.save_steps=1", *rising)
    sentence = refused(2, "train", recipe, "--output-dir", out, "--workers", 0, *overrides)
    checkpoints = out / "train.partial" / "checkpoints"
    kept = max(int(path.name.split("-")[1]) for path in checkpoints.iterdir())
    assert f"in step {kept + 1}: no step was made with it" in sentence
    assert f"the last good checkpoint is kept in {checkpoints}/checkpoint-{kept};" in sentence
    assert (checkpoints / f"checkpoint-{kept}" / "model.safetensors").exists()


def test_a_model_built_from_scratch_that_diverges(recipe, refused, tmp_path):
    out = ("--output-dir", tmp_path / "run", "--workers", 0)
    sentence = refused(2, "run", recipe, *out, "model.scratch.learning_rate=1e30")
    assert sentence.startswith("target model: the loss is nan at step ")
    assert "lower learning_rate" in sentence


@pytest.mark.parametrize(
    ("code", "override", "message"),
    [
        (2, "methods.0.max_length=4", "npo-kl: 48 of 48 rows are longer than max_length=4 tokens"),
        (
            2,
            "methods.0.lr_scheduler_type=cosine_with_min_lr",
            "npo-kl: the method's settings cannot be used: One of min",
        ),
        (2, "methods.0.optim_args=words", "npo-kl: the method's settings cannot be used: "),
        (2, "methods.0.model_init_kwargs={dtyp: x}", "npo-kl: cannot load a causal language model from "),
        (3, "methods.0.optim=galore_adamw", "npo-kl: the method's settings need a library that is not installed: "),
    ],
)
def test_settings_that_the_libraries_read_late(code, override, message, recipe, refused, tmp_path):
    out = ("--output-dir", tmp_path / "run", "--workers", 0)
    assert refused(code, "run", recipe, *out, override).startswith(message)
    assert not (tmp_path / "run" / "train").exists()


def test_the_same_in_worker_processes(recipe, refused, tmp_path):
    out = ("--output-dir", tmp_path / "run", "--workers", 1)
    sentence = refused(2, "train", recipe, *out, "methods.0.learning_rate=1e30")
    assert sentence.startswith("npo-kl: the loss is nan in step 2: ")


def test_a_diverging_attack_is_a_result_not_an_error(recipe, finished, tmp_path):
    overrides = ("attack.rtt.learning_rates=[1e30]", "attack.rtt.epochs=2")
    adopted(finished, tmp_path / "run", recipe, overrides)
    assert run(recipe, tmp_path / "run", *overrides) == 1
    assert list((tmp_path / "run" / "attack").rglob("diverged.json"))
