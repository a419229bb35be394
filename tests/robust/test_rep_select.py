"""RepSelect: the filter against two-sided projections by hand, and what becomes of a run."""

import copy

import pytest
import torch
from peft import LoraConfig
from test_part_hooks import term_by_hand
from tiny_run import assert_same, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.rep_select import UPDATE_FILE, LowRank, RepSelect, collapsed, leading_directions
from hf_unlearn.robust.weights import load_tensors

PAPER = {"loss_type": "ga", "retain_weight": 0.0, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.5}


def rep_select(folder, model=None, run=None, **settings):
    return tiny_trainer(folder, model, robust=[{"name": "rep-select", **settings}], **{**PAPER, **(run or {})})


def matrix(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("components", [1, 3, 6, 40])
def test_leading_directions_are_divided_on_both_sides(components):
    """In float64, as the paper's code does it: projections on V are divided by s / s_min, then those on U."""
    gradient = matrix(10, 6).double()
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    count = min(components, 6)
    left, values, right = left[:, :count], values[:count], right[:count].T
    ratio = values / values[-1]
    once = gradient - ((gradient @ right) * (1 - 1 / ratio)) @ right.T
    twice = (once.T - ((once.T @ left) * (1 - 1 / ratio)) @ left.T).T
    found = collapsed(gradient.float(), components, seed=0)
    torch.testing.assert_close(found.double(), twice, rtol=1e-4, atol=1e-5)


def test_one_component_leaves_the_gradient_as_it_is():
    gradient = matrix(5, 7)
    torch.testing.assert_close(collapsed(gradient, 1, 0), gradient)


def test_directions_below_rounding_are_not_counted():
    """Rank 2 in a 20 by 30 matrix: with 16 components the smallest would be noise, and nothing would be left."""
    gradient = 3 * torch.outer(matrix(20), matrix(30, seed=1)) + torch.outer(matrix(20, seed=2), matrix(30, seed=3))
    torch.testing.assert_close(collapsed(gradient, 16, 0), collapsed(gradient, 2, 0), rtol=1e-3, atol=1e-4)
    assert float(collapsed(gradient, 16, 0).norm()) > 0.1


def test_no_gradient_stays_none():
    assert not collapsed(torch.zeros(4, 5), 3, 0).any()


def test_a_large_matrix_is_decomposed_approximately_and_the_same_each_time():
    low = matrix(200, 5) @ matrix(5, 300, seed=1) + 0.01 * matrix(200, 300, seed=2)
    torch.manual_seed(11)
    left, values, _ = leading_directions(low, 5, seed=4)
    torch.manual_seed(12)
    assert torch.equal(values, leading_directions(low, 5, seed=4)[1])
    torch.testing.assert_close(values, torch.linalg.svdvals(low)[:5], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(left.T @ left, torch.eye(5), rtol=1e-3, atol=1e-3)


def test_an_addition_starts_at_nothing_and_learns():
    layer = torch.nn.Linear(6, 4)
    addition = LowRank(layer, 2, torch.Generator().manual_seed(0))
    x = matrix(3, 6)
    plain = layer(x)
    handle = layer.register_forward_hook(addition)
    assert torch.equal(layer(x), plain)
    gradients = torch.autograd.grad(layer(x).square().mean(), (addition.down, addition.up))
    addition.step(gradients, 0.1)
    assert layer(x).square().mean().item() < plain.square().mean().item()
    handle.remove()
    assert torch.equal(layer(x), plain)


def test_without_elicitation_the_update_is_the_filtered_forget_gradient(tmp_path):
    model = tiny_model()
    trainer = rep_select(tmp_path, copy.deepcopy(model), {"max_steps": 3}, elicit_rate=0.0, components=4, kl_budget=0)
    trainer.train()
    forget = term_by_hand(model, trainer, "forget", rows=8)[1]
    after = weights(trainer.model)
    for name, value in weights(model).items():
        if ".mlp." not in name:
            assert torch.equal(after[name], value), name
            continue
        update = collapsed(forget[name].float(), 4, 0)
        torch.testing.assert_close(after[name], value - 3 * 0.5 * update, rtol=1e-4, atol=1e-5)
        assert not torch.equal(after[name], value), name


def test_eliciting_changes_the_update_and_leaves_the_model_alone(tmp_path):
    updates = []
    for number, rate in enumerate((0.0, 0.5)):
        model = tiny_model()
        before = weights(model)
        trainer = rep_select(tmp_path / str(number), model, elicit_rate=rate)
        trainer._prepare_run(resuming=False)
        assert_same(weights(model), before)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())
        updates.append(load_tensors(tmp_path / str(number) / UPDATE_FILE, "a test"))
    assert updates[0].keys() == updates[1].keys()
    assert not any(torch.equal(updates[0][name], updates[1][name]) for name in updates[0])


def test_it_forgets_and_stops_at_the_budget(tmp_path):
    """Without a budget it goes on; with one nothing moves any more, two updates after it was passed at the latest."""
    run = {"max_steps": 12, "logging_steps": 1, "learning_rate": 2.0, "per_device_train_batch_size": 8}
    unbounded = rep_select(tmp_path, None, run, components=8, kl_budget=0)
    unbounded.train()
    divergences = [entry["kl/retain"] for entry in unbounded.state.log_history if "kl/retain" in entry]
    budget = divergences[4]
    bounded = rep_select(tmp_path, None, run, components=8, kl_budget=budget)
    before = weights(bounded.model)
    bounded.train()
    found = [entry["kl/retain"] for entry in bounded.state.log_history if "kl/retain" in entry]
    assert found[:6] == divergences[:6]
    assert found[6:] != divergences[6:]
    name = "model.layers.0.mlp.up_proj.weight"
    update = load_tensors(tmp_path / UPDATE_FILE, "a test")[name]
    made = float(((before[name] - bounded.model.state_dict()[name]) / (2.0 * update)).median())
    # 0 before the first update: the divergence first exceeds that of step 5 in step 6.
    assert made == pytest.approx(6, abs=0.01)


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path):
    run = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3, "retain_weight": 1.0}
    whole = rep_select(tmp_path, None, run, kl_budget=1e-7)
    whole.train()
    resumed = rep_select(tmp_path, None, run, kl_budget=1e-7)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.parts[0]._stopped
    assert_same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize(
    ("run", "settings", "sentence"),
    [
        ({"optim": "adamw_torch"}, {}, "optim is adamw_torch, .* set optim: sgd"),
        ({"retain_loss_type": "nll"}, {}, "nothing measures kl_budget"),
        ({"retain_loss_type": "none"}, {}, "nothing measures kl_budget"),
        ({"forget_weight": 2.0}, {}, "forget_weight has no effect"),
        ({}, {"components": 0}, "components is 0"),
        ({}, {"elicit_rank": 0}, "elicit_rank is 0"),
        ({}, {"elicit_rate": -1.0}, "elicit_rate is -1"),
        ({}, {"kl_budget": -1.0}, "kl_budget is -1"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(tmp_path, run, settings, sentence):
    with pytest.raises(RequestError, match=sentence):
        rep_select(tmp_path, "a model that is nowhere", run, **settings)


def test_modules_that_are_not_there_and_adapters_are_refused(tmp_path):
    with pytest.raises(RequestError, match="no linear layer that is trained has 'ffn' in its name"):
        rep_select(tmp_path, modules="ffn").train()
    with pytest.raises(RequestError, match="train without adapters"):
        rep_select(tmp_path, None, {"peft_config": LoraConfig(r=2, target_modules=["up_proj"])}).train()


def test_without_a_retain_loss_and_a_budget_it_only_subtracts(tmp_path):
    trainer = rep_select(tmp_path, None, {"retain_loss_type": "none", "max_steps": 2}, kl_budget=0)
    before = weights(trainer.model)
    trainer.train()
    assert isinstance(trainer.parts[0], RepSelect)
    assert not torch.equal(
        weights(trainer.model)["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"]
    )
