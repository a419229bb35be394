"""The loop of small trainings: what it does to the weights, written out by hand."""

from __future__ import annotations

import pytest
import torch

from hf_unlearn.models.training_loop import DivergedError, finite, take_steps

BATCHES = [torch.tensor([3.0, -4.0]), torch.tensor([0.3, 0.4]), torch.tensor([1.0, 0.0])]


def trained(max_grad_norm: float, batches=BATCHES, rates=(1.0, 0.5, 0.25)) -> torch.nn.Parameter:
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([100.0, 100.0])  # left over from something else
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (*rates, 0.0)[step])
    take_steps(
        optimizer,
        batches,
        lambda batch: (weight * batch).sum().backward(),
        max_grad_norm=max_grad_norm,
        schedule=schedule,
    )
    return weight


def test_steps_are_those_of_the_clipped_gradients_at_the_rates_of_the_schedule():
    expected = torch.zeros(2)
    for batch, rate in zip(BATCHES, (1.0, 0.5, 0.25), strict=True):
        expected -= rate * batch * min(1.0, 1.0 / (float(batch.norm()) + 1e-6))
    assert torch.allclose(trained(1.0), expected)


def test_without_a_limit_gradients_are_taken_as_they_are():
    assert torch.equal(trained(0.0).detach(), -(BATCHES[0] + 0.5 * BATCHES[1] + 0.25 * BATCHES[2]))


def test_no_gradients_are_left():
    assert trained(1.0).grad is None
    assert trained(1.0, batches=[]).grad is None


def test_a_loss_that_is_not_finite_ends_the_training_before_its_step():
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def add_gradients(value: float) -> None:
        loss = weight * value
        finite(value)
        loss.backward()

    with pytest.raises(DivergedError, match="the loss is nan") as diverged:
        take_steps(optimizer, [1.0, 2.0, float("nan"), 4.0], add_gradients, max_grad_norm=0.0)
    assert diverged.value.batch == 2
    assert weight.item() == -3.0
