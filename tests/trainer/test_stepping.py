"""Rounded steps: exact where they round to nearest, right in the mean where they round at random."""

import math

import pytest
import torch
from tiny_run import assert_same, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.base import StepResult
from hf_unlearn.trainer import UnlearnConfig
from hf_unlearn.trainer.rounded_steps import RoundedSteps, nearest_bf16, stochastic_bf16


def is_bf16(tensor):
    return torch.equal(tensor, tensor.to(torch.bfloat16).float())


@pytest.mark.parametrize("stepping", ["bf16", "bf16-stochastic"])
def test_all_weights_are_bfloat16_numbers_after_training(tmp_path, stepping):
    model = tiny_model()
    before = weights(model)
    tiny_trainer(tmp_path, model, stepping=stepping).train()
    after = weights(model)
    assert all(tensor.dtype == torch.float32 and is_bf16(tensor) for tensor in after.values())
    assert any(not torch.equal(after[name], nearest_bf16(before[name])) for name in after)


def test_float32_is_left_alone(tmp_path):
    model = tiny_model()
    tiny_trainer(tmp_path, model).train()
    assert not any(is_bf16(tensor) for name, tensor in weights(model).items() if "_proj" in name)


def test_each_step_is_the_rounded_float32_step():
    """One step of plain descent, against the same step by hand."""
    layer = torch.nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        layer.weight.copy_(nearest_bf16(layer.weight))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    part, inputs = RoundedSteps(), torch.randn(4, 8)
    for step in range(3):
        expected = layer.weight.detach().clone()
        optimizer.zero_grad()
        layer(inputs).square().sum().backward()
        expected -= 0.1 * layer.weight.grad
        optimizer.step()
        part.after_step(StepResult(step + 1, layer, dict))
        assert torch.equal(layer.weight, expected.to(torch.bfloat16).float())


def test_small_steps_are_lost_for_large_weights_only():
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0**-10]]))
    before = layer.weight.detach().clone()
    for _ in range(100):
        with torch.no_grad():
            layer.weight += 1e-5
        RoundedSteps().after_step(StepResult(1, layer, dict))
    assert layer.weight[0, 0] == before[0, 0]
    assert layer.weight[0, 1] > before[0, 1] + 5e-4


@pytest.mark.parametrize("value", [1.003, -1.003, 3e-5, -0.0271])
def test_stochastic_rounding_is_right_in_the_mean(value):
    draws = 200_000
    rounded = stochastic_bf16(torch.full((draws,), value), torch.Generator().manual_seed(0)).double()
    below, above = rounded.min(), rounded.max()
    exact = float(torch.tensor(value))  # as float32 has it
    assert below < exact < above
    assert len(rounded.unique()) == 2
    assert is_bf16(rounded.float())
    # Five standard errors of a mean over draws that take one of two values.
    share = (exact - below) / (above - below)
    error = (above - below) * math.sqrt(share * (1 - share) / draws)
    assert abs(rounded.mean() - exact) < 5 * error


def test_stochastic_rounding_keeps_bfloat16_numbers_and_what_is_not_finite():
    values = torch.tensor([0.0, 1.0, -2.5, 2.0**-130, math.inf, -math.inf, math.nan])
    rounded = stochastic_bf16(values, torch.Generator().manual_seed(1))
    assert torch.equal(rounded.nan_to_num(7.0), values.nan_to_num(7.0))


def test_draws_follow_from_seed_and_step():
    def run(seed, step):
        layer = torch.nn.Linear(64, 64, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.9, 1.1, 4096).view(64, 64))
        part = RoundedSteps(stochastic=True, seed=seed)
        part.after_step(StepResult(step + 1, layer, dict))
        return layer.weight.detach()

    assert torch.equal(run(3, 5), run(3, 5))
    assert not torch.equal(run(3, 5), run(3, 6))
    assert not torch.equal(run(3, 5), run(4, 5))


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    settings = {"stepping": "bf16-stochastic", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = tiny_trainer(tmp_path / "whole", tiny_model(), **settings)
    whole.train()
    tiny_trainer(tmp_path / "cut", tiny_model(), **{**settings, "max_steps": 2}).train()
    resumed = tiny_trainer(tmp_path / "cut", tiny_model(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert_same(weights(whole.model), weights(resumed.model))


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(RequestError, match="stepping"):
        UnlearnConfig(output_dir=str(tmp_path), stepping="bf61")
    with pytest.raises(RequestError, match="control"):
        UnlearnConfig(output_dir=str(tmp_path), stepping="bf16", control="bin_hidden")
    with pytest.raises(RequestError, match="model_init_kwargs"):
        tiny_trainer(tmp_path, tiny_model().to(torch.bfloat16), stepping="bf16")
