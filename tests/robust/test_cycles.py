"""Cycles: forget alone, then retain alone, each with a fresh optimizer."""

import pytest
import torch
from tiny_run import tiny_model, tiny_trainer, weights
from transformers import TrainerCallback

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.cycles import Cycles


class Watch(TrainerCallback):
    """Notes after each step which gradients there were and how much momentum the optimizer holds."""

    def __init__(self, trainer):
        self.trainer, self.steps = trainer, []

    def on_optimizer_step(self, args, state, control, **kwargs):
        steps_of_momentum = {int(entry["step"]) for entry in self.trainer.optimizer.state.values()}
        self.steps.append((set(self.trainer.step_means.means(self.trainer.accelerator)), steps_of_momentum))


def cycles_trainer(folder, model=None, unlearn_steps=2, heal_steps=3, rounds=0, **settings):
    part = {"name": "cycles", "unlearn_steps": unlearn_steps, "heal_steps": heal_steps, "rounds": rounds}
    return tiny_trainer(folder, model, robust=[part], **settings)


def test_phases_alternate():
    part = Cycles(unlearn_steps=2, heal_steps=3)
    weights_by_step = [(part.term_weights(step).forget, part.term_weights(step).retain) for step in range(7)]
    assert weights_by_step == [(1, 0), (1, 0), (0, 1), (0, 1), (0, 1), (1, 0), (1, 0)]


def test_after_the_last_round_only_the_retain_term_goes_on():
    part = Cycles(unlearn_steps=2, heal_steps=1, rounds=2)
    assert [part.term_weights(step).forget for step in range(10)] == [1, 1, 0, 1, 1, 0, 0, 0, 0, 0]


def test_each_step_trains_one_term_and_each_phase_starts_without_momentum(tmp_path):
    trainer = cycles_trainer(tmp_path, loss_type="ga", retain_loss_type="nll", max_steps=7)
    watch = Watch(trainer)
    trainer.add_callback(watch)
    trainer.train()
    terms = [{name.split("/")[1] for name in names} for names, _ in watch.steps]
    assert terms == [{"forget"}] * 2 + [{"retain"}] * 3 + [{"forget"}] * 2
    assert [momentum for _, momentum in watch.steps] == [{1}, {2}, {1}, {2}, {3}, {1}, {2}]


def test_an_unlearning_phase_is_the_run_without_a_retain_term(tmp_path):
    model = tiny_model()
    settings = {"loss_type": "npo", "max_steps": 2, "learning_rate": 1e-3}
    alone = tiny_trainer(tmp_path / "alone", tiny_model(), retain_loss_type="none", **settings)
    alone.train()
    cycled = cycles_trainer(tmp_path / "cycled", model, **settings)
    cycled.train()
    for name, value in weights(alone.model).items():
        torch.testing.assert_close(weights(cycled.model)[name], value, rtol=0, atol=0)


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path):
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3}
    whole = cycles_trainer(tmp_path / "whole", **settings)
    whole.train()
    cycles_trainer(tmp_path / "cut", **{**settings, "max_steps": 3}).train()
    resumed = cycles_trainer(tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    for name, value in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], value), name


def test_healing_needs_something_to_heal_with(tmp_path):
    with pytest.raises(RequestError, match="needs a retain loss"):
        cycles_trainer(tmp_path, retain_loss_type="none")


@pytest.mark.parametrize("settings", [{"unlearn_steps": 0}, {"heal_steps": 0}, {"rounds": -1}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match="cycles: "):
        Cycles(**settings)
