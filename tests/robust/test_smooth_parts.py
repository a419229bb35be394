"""SAM, random smoothing and weight averaging against their formulas, and what they leave behind."""

import copy
import math

import pytest
import torch
from hook_parts import parts_trainer
from test_part_hooks import ACCUMULATION, SGD, term_by_hand
from tiny_run import assert_same, logged, tiny_model, tiny_trainer, weights
from transformers import TrainerCallback

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.averaging import WeightAveraging
from hf_unlearn.robust.base import TrainingPart
from hf_unlearn.robust.sam import SAM
from hf_unlearn.robust.smoothing import Smoothing
from hf_unlearn.robust.weights import exchanged

GRADIENTS = {"loss_type": "ga", "retain_loss_type": "nll", "max_steps": 1, "logging_steps": 1, **SGD}


def run(folder, part, **settings):
    trainer = parts_trainer(folder, part, **{**GRADIENTS, **settings})
    trainer.train()
    return trainer


def moved(model, shifts):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in other.named_parameters():
            value.add_(shifts[name].float())
    return other


# ---- SAM ----


@pytest.mark.parametrize(("batch_size", "accumulation"), ACCUMULATION)
def test_sam_takes_the_forget_gradient_uphill_and_the_retain_gradient_where_it_is(tmp_path, batch_size, accumulation):
    """In float64 by hand; however the 4 rows of the step are split into micro-batches."""
    model, rho = tiny_model(), 0.5
    trainer = run(
        tmp_path,
        SAM(rho=rho),
        model=copy.deepcopy(model),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
    )
    here = term_by_hand(model, trainer, "forget")[1]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in here.values()))
    uphill = moved(model, {name: rho / norm * gradient for name, gradient in here.items()})
    loss, forget = term_by_hand(uphill, trainer, "forget")
    assert loss > term_by_hand(model, trainer, "forget")[0]
    retain = term_by_hand(model, trainer, "retain")[1]
    after = weights(trainer.model)
    for name, value in weights(model).items():
        expected = value - 0.1 * (forget[name] + retain[name])
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-4, atol=1e-6)
    assert logged(trainer)[0]["loss/forget"] == pytest.approx(loss, rel=1e-4)


def test_sam_perturbs_only_in_its_steps(tmp_path):
    losses = []
    for part in (SAM(rho=0.5), SAM(rho=0.5, every=2), TrainingPart()):
        trainer = run(tmp_path, part, max_steps=2, model=tiny_model())
        losses.append([entry["loss/forget"] for entry in logged(trainer)])
    always, seldom, never = losses
    assert always[0] == seldom[0]
    assert always[1] > seldom[1]
    assert always[0] > never[0]


def test_sam_without_a_forget_gradient_leaves_the_run_alone(tmp_path):
    cycles = {"name": "cycles", "unlearn_steps": 1, "heal_steps": 3}
    settings = {"max_steps": 4, "save_strategy": "no"}
    plain = tiny_trainer(tmp_path, robust=[cycles], **settings)
    plain.train()
    sam = tiny_trainer(tmp_path, robust=[cycles, {"name": "sam", "rho": 1e-12}], **settings)
    sam.train()
    for name, value in weights(plain.model).items():
        torch.testing.assert_close(weights(sam.model)[name], value, rtol=1e-3, atol=1e-5)


def test_sam_keeps_no_copy_between_steps(tmp_path):
    part = SAM()
    run(tmp_path, part)
    assert part._moved == {}


# ---- Random smoothing ----


def test_smoothing_is_the_mean_over_its_draws(tmp_path):
    """The same noise by hand: drawn from the seed of step and draw, parameter by parameter."""
    model, sigma = tiny_model(), 0.05
    trainer = run(tmp_path, Smoothing(sigma=sigma, draws=2, seed=5), model=copy.deepcopy(model))
    mean = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in model.named_parameters()}
    for draw in range(2):
        generator = torch.Generator().manual_seed((5 * 1_000_003 + 0) * 1_000_003 + draw)
        noise = {n: sigma * torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
        gradient = term_by_hand(moved(model, noise), trainer, "forget")[1]
        mean = {name: mean[name] + gradient[name] / 2 for name in mean}
    retain, after = term_by_hand(model, trainer, "retain")[1], weights(trainer.model)
    for name, value in weights(model).items():
        expected = value - 0.1 * (mean[name] + retain[name])
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-4, atol=1e-6)


def test_noise_is_new_in_each_step_and_draw_and_the_same_in_each_micro_batch():
    part, model = Smoothing(draws=2), tiny_model()

    def noise(step, draw):
        part._step, part._model = step, model
        before = model.lm_head.weight.detach().clone()
        with part.views("forget")[draw].enter():
            return model.lm_head.weight.detach() - before

    first = noise(0, 0)
    assert torch.equal(first, noise(0, 0))
    for other in (noise(0, 1), noise(1, 0)):
        correlation = torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.1
    assert part.views("retain") == ()


def test_relative_noise_follows_each_tensors_own_spread():
    model, part = tiny_model(), Smoothing(sigma=0.5, relative=True, draws=1)
    part._model = model
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    before = weights(model)
    with part.views("forget")[0].enter():
        inside = weights(model)
    for name in ("lm_head.weight", "model.layers.0.mlp.up_proj.weight"):
        assert float((inside[name] - before[name]).std() / before[name].std()) == pytest.approx(0.5, rel=0.05)
    # Norms start as ones: they have no spread.
    assert torch.equal(inside["model.norm.weight"], before["model.norm.weight"])
    assert_same(weights(model), before)


# ---- Weight averaging ----


class Weights(TrainerCallback):
    """The weights after each step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append(weights(model))


def averaged_run(folder, part, steps, **settings):
    trainer = parts_trainer(folder, part, **{**GRADIENTS, "max_steps": steps, **settings})
    trainer.add_callback(watch := Weights())
    trainer.train()
    return trainer, watch.steps


@pytest.mark.parametrize(
    ("start", "every", "counted"),
    [(0.0, 1, [1, 2, 3, 4, 5]), (0.5, 1, [3, 4, 5]), (0.0, 2, [1, 3, 5]), (0.99, 1, [5])],
)
def test_the_model_gets_the_mean_of_the_weights_that_count(tmp_path, start, every, counted):
    trainer, steps = averaged_run(tmp_path, WeightAveraging(start=start, every=every), 5)
    for name, value in weights(trainer.model).items():
        mean = torch.stack([steps[number - 1][name].double() for number in counted]).mean(0)
        torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)


def test_an_exponential_mean(tmp_path):
    trainer, steps = averaged_run(tmp_path, WeightAveraging(start=0.0, decay=0.75), 3)
    for name, value in weights(trainer.model).items():
        first, second, third = (each[name].double() for each in steps)
        expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_averaging_does_not_change_the_run_it_watches(tmp_path):
    _, with_part = averaged_run(tmp_path, WeightAveraging(start=0.0), 3, model=tiny_model())
    plain = tiny_trainer(tmp_path, tiny_model(), **{**GRADIENTS, "max_steps": 3})
    plain.train()
    assert_same(with_part[-1], weights(plain.model))


def test_what_other_parts_do_after_a_step_is_averaged_whatever_the_order(tmp_path):
    parts = [{"name": "sure-rows", "percentile": 50}, {"name": "weight-averaging", "start": 0.0}]
    settings = {**GRADIENTS, "max_steps": 3, "optim": "adamw_torch", "weight_decay": 0.1}
    one, other = (tiny_trainer(tmp_path, robust=order, **settings) for order in (parts, parts[::-1]))
    one.train()
    other.train()
    assert_same(weights(one.model), weights(other.model))


# ---- All of them ----

PARTS = {
    "sam": {"name": "sam", "rho": 0.3, "every": 2},
    "smoothing": {"name": "smoothing", "sigma": 0.02, "draws": 2},
    "weight-averaging": {"name": "weight-averaging", "start": 0.2},
    "weight-averaging, last": {"name": "weight-averaging", "start": 0.9},
    "sure-rows": {"name": "sure-rows", "percentile": 60},
    "sign-filter": {"name": "sign-filter"},
    "precision-views": {"name": "precision-views", "grids": ["nf4", "int4-g32"], "noise": ["nf4"], "per_step": 2},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, name):
    settings = {
        "max_steps": 5,
        "save_strategy": "steps",
        "save_steps": 3,
        "robust": [PARTS[name]],
        "retain_loss_type": "nll" if name == "sign-filter" else "kl",
        "weight_decay": 0.1,
    }
    whole = tiny_trainer(tmp_path, **settings)
    whole.train()
    resumed = tiny_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("name", ["sure-rows", "sign-filter", "weight-averaging"])
def test_resuming_without_what_a_part_kept_is_refused(tmp_path, name):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "robust": [PARTS[name]]}
    settings["retain_loss_type"] = "nll"
    tiny_trainer(tmp_path, **settings).train()
    (kept,) = (tmp_path / "checkpoint-2" / "parts").glob("*.safetensors")
    kept.write_bytes(b"damaged")
    with pytest.raises(RequestError, match=f"{name}: .* is missing or damaged"):
        tiny_trainer(tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_exchanged_weights_come_back_after_an_error():
    model = tiny_model()
    before = weights(model)
    other = torch.zeros_like(model.lm_head.weight)
    with pytest.raises(ZeroDivisionError), exchanged([(model.lm_head.weight, other)]):
        assert not model.lm_head.weight.any()
        raise ZeroDivisionError
    assert_same(weights(model), before)


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        (SAM, {"rho": 0.0}),
        (SAM, {"every": 0}),
        (Smoothing, {"sigma": 0.0}),
        (Smoothing, {"draws": 0}),
        (WeightAveraging, {"start": 1.0}),
        (WeightAveraging, {"every": 0}),
        (WeightAveraging, {"decay": 1.0}),
    ],
)
def test_numbers_out_of_range_are_refused(part, settings):
    with pytest.raises(RequestError, match=f"{next(iter(settings))} is"):
        part(**settings)
