"""Minor components: the directions and the projection by hand in float64, and what a run then changes."""

import pytest
import torch
from tiny_run import tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.losses.base import LabelScores
from hf_unlearn.losses.forget.rmu import RMULoss, control_vector
from hf_unlearn.robust.mcu import MinorComponents, MinorLoss, main_directions, without

RMU = {
    "loss_type": "rmu",
    "loss_kwargs": {"layer": 1, "coefficient": 20.0},
    "retain_loss_type": "hidden",
    "retain_loss_kwargs": {"layer": 1},
}


def mcu_trainer(folder, components=4, **settings):
    return tiny_trainer(folder, robust=[{"name": "mcu", "components": components}], **{**RMU, **settings})


def test_directions_are_the_mean_and_what_varies_most():
    torch.manual_seed(0)
    scale = torch.tensor([9.0, 4.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    states = torch.randn(4000, 5, dtype=torch.float64) * scale + torch.tensor([0.0, 0.0, 7.0, 0.0, 0.0]).double()
    directions, share = main_directions(states, 3)
    mean = states.mean(0)
    torch.testing.assert_close(directions[0], mean / mean.norm())
    for place in (0, 1):  # the axes with the largest spread, up to their sign
        assert abs(float(directions[1 + place][place])) > 0.99
    spread = (states - mean) @ directions[1]
    others = [(states - mean) @ torch.nn.functional.normalize(torch.randn(5).double(), dim=0) for _ in range(50)]
    assert spread.var() >= max(other.var() for other in others)
    left = without(states, directions)
    assert share == pytest.approx(1 - float((left**2).sum() / (states**2).sum()), rel=1e-9)
    assert share > 0.98


def test_directions_are_projected_out_one_after_the_other():
    torch.manual_seed(1)
    states = torch.randn(6, 4, dtype=torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(2, 4, dtype=torch.float64), dim=1)
    expected = states.clone()
    for row in range(6):
        for direction in directions:
            along = sum(float(a) * float(b) for a, b in zip(expected[row], direction, strict=True))
            expected[row] -= along * direction
    torch.testing.assert_close(without(states, directions), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        without(states, directions) @ directions[1], torch.zeros(6).double(), atol=1e-12, rtol=0
    )


def test_the_loss_is_blind_to_what_was_taken_out():
    torch.manual_seed(2)
    hidden = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    directions, _ = main_directions(torch.randn(50, 6, dtype=torch.float64), 3)
    rows = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    loss = MinorLoss(RMULoss(layer=1, coefficient=2.0, trained=2), directions)
    found = loss(LabelScores(None, torch.zeros(7, dtype=torch.int64), rows, 3, hidden=hidden)).mean
    aim = 2.0 * control_vector(6, 0)
    distances = [(state - aim).square().sum() for state in without(hidden.detach(), directions)]
    by_hand = sum(sum(distances[i] for i in range(7) if rows[i] == row) / int((rows == row).sum()) for row in range(3))
    assert found.item() == pytest.approx(float(by_hand) / 3, rel=1e-12)
    found.backward()
    assert (hidden.grad @ directions[0]).abs().max() < 1e-12  # no force along the mean
    assert loss.hidden_layer == 1 and loss.trained_layers == (0, 1)


def forget_states(trainer, layer=1):
    context = trainer.training_context(resuming=False)
    found = []
    for row in context.forget_rows:
        kept = []
        handle = trainer.model.model.layers[layer].register_forward_hook(
            lambda _, given, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.no_grad():
            trainer.model(input_ids=torch.tensor([row.input_ids]))
        handle.remove()
        found.append(kept[0][0, row.n_prompt - 1 : -1].double())
    return torch.cat(found)


def test_a_run_uses_the_directions_of_the_target_and_changes_the_minor_ones_more(tmp_path):
    moved = {}
    for name, robust in (("plain", []), ("mcu", [{"name": "mcu", "components": 4}])):
        trainer = tiny_trainer(tmp_path / name, robust=robust, max_steps=8, learning_rate=3e-3, **RMU)
        before = forget_states(trainer)
        directions, share = main_directions(before, 4)
        trainer.train()
        change = forget_states(trainer) - before
        minor = without(change, directions).square().sum()
        moved[name] = float(minor / change.square().sum())
        if robust:
            assert trainer.parts[0].outcome() == {"share_taken_out": pytest.approx(share, abs=1e-4)}
            left = without(before, trainer.parts[0]._directions)
            torch.testing.assert_close(left, without(before, directions), rtol=0, atol=1e-5)
    assert moved["mcu"] > moved["plain"]


def test_losses_that_see_more_are_refused(tmp_path):
    with pytest.raises(RequestError, match="mcu: loss_type npo does not look at hidden states alone"):
        tiny_trainer(tmp_path, robust=["mcu"], loss_type="npo")


def test_numbers_out_of_range_are_refused(tmp_path):
    with pytest.raises(RequestError, match="mcu: components is 0"):
        MinorComponents(components=0)
    with pytest.raises(RequestError, match="components is 64, and hidden states have 64 dimensions"):
        mcu_trainer(tmp_path, components=64, max_steps=1).train()


def test_the_same_weights_come_of_the_same_settings(tmp_path):
    first, second = (mcu_trainer(tmp_path / name, max_steps=2) for name in ("a", "b"))
    for trainer in (first, second):
        trainer.train()
    assert all(torch.equal(value, weights(second.model)[name]) for name, value in weights(first.model).items())
