"""UNDO: unlearn, damage, distil."""

import math

import pytest
import torch
from tiny_run import assert_same, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.undo import TEACHER_FILE, Undo, damage
from hf_unlearn.trainer import UnlearnConfig


def undo_trainer(folder, model=None, unlearn_steps=3, alpha=0.2, **settings):
    part = {"name": "undo", "unlearn_steps": unlearn_steps, "alpha": alpha}
    return tiny_trainer(folder, model, robust=[part], **{"max_steps": 8, **settings})


def test_damage_by_hand():
    model = tiny_model()
    before = weights(model)
    damage(model, alpha=0.3, beta=0.5, seed=7)
    after = weights(model)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in tiny_model().named_parameters():
        if parameter.ndim == 1:
            by_hand = 0.7 * before[name].double()
        else:
            rows, columns = parameter.shape
            drawn = torch.rand(parameter.shape, generator=generator).double()
            noise = (2 * drawn - 1) * math.sqrt(6 / (rows + columns))
            by_hand = 0.7 * before[name].double() + 0.3 * 0.5 * noise
        torch.testing.assert_close(after[name].double(), by_hand, rtol=0, atol=1e-6)


def test_frozen_weights_are_not_damaged():
    model = tiny_model()
    model.lm_head.requires_grad_(False)
    before = model.lm_head.weight.clone()
    damage(model, 0.5, 1.0, 0)
    assert torch.equal(model.lm_head.weight, before)


def test_the_first_phase_is_the_run_without_the_part(tmp_path):
    plain = tiny_trainer(tmp_path / "plain", max_steps=3)
    plain.train()
    trainer = undo_trainer(tmp_path / "undo")
    trainer.train()
    from safetensors.torch import load_file

    teacher = load_file(tmp_path / "undo" / TEACHER_FILE)
    expected = dict(plain.model.named_parameters())
    assert teacher.keys() == expected.keys()
    assert all(torch.equal(teacher[name], expected[name]) for name in teacher)


def retain_divergence(teacher, student, trainer):
    """KL from the teacher over the retain labels, computed with plain forward passes."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in trainer.train_dataset.retain:
            ids, first = torch.tensor([row.input_ids]), row.n_prompt - 1
            p, q = (model(input_ids=ids).logits[0, first:-1].double().log_softmax(-1) for model in (teacher, student))
            total += float((p.exp() * (p - q)).sum())
            count += len(p)
    return total / count


@pytest.mark.parametrize("reference", ["cache", pytest.param("model", marks=pytest.mark.slow)])
def test_the_second_phase_pulls_towards_the_unlearned_model(tmp_path, reference):
    plain = tiny_trainer(tmp_path / "plain", max_steps=3, loss_type="ga")
    plain.train()
    plain.model.eval()
    target, damaged = tiny_model().eval(), tiny_model().eval()
    damaged.load_state_dict(plain.model.state_dict())
    damage(damaged, 0.2, 0.1, 0)
    trainer = undo_trainer(tmp_path / "undo", loss_type="ga", max_steps=40, reference=reference, logging_steps=1)
    trainer.train()
    student = trainer.model.eval()
    far = retain_divergence(plain.model, damaged, trainer)
    near = retain_divergence(plain.model, student, trainer)
    assert near < 0.2 * far
    assert near < retain_divergence(target, student, trainer)  # the teacher's answers, not the target's
    # what is logged is the distance to the teacher: zero forget terms, and KL that starts at that of the damage
    logged = [entry for entry in trainer.state.log_history if "kl/retain" in entry]
    assert all("loss/forget" not in entry for entry in logged[3:])


@pytest.mark.parametrize("step", [3, 5])
def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, step):
    settings = {"save_strategy": "steps", "save_steps": step}
    whole = undo_trainer(tmp_path / "whole", **settings)
    whole.train()
    stopped = undo_trainer(tmp_path / "cut", **settings)

    class Killed(Exception):
        pass

    original = stopped.training_step

    def dying(*args, **kwargs):
        if stopped.state.global_step > step:
            raise Killed
        return original(*args, **kwargs)

    stopped.training_step = dying
    with pytest.raises(Killed):
        stopped.train()
    resumed = undo_trainer(tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{step}"))
    assert_same(weights(whole.model), weights(resumed.model))


def test_a_run_cannot_go_on_distilling_without_its_teacher(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 5}
    undo_trainer(tmp_path, **settings).train()
    (tmp_path / TEACHER_FILE).unlink()
    with pytest.raises(RequestError, match="missing or damaged"):
        undo_trainer(tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


@pytest.mark.parametrize("settings", [{"unlearn_steps": 0}, {"alpha": 0}, {"alpha": 1.5}, {"beta": -0.1}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match="undo: "):
        Undo(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retain_loss_type": "nll"}, "set retain_loss_type to kl"),
        ({"retain_loss_type": "none"}, "needs a retain loss"),
        ({"max_steps": 100}, "the run has 100 steps and unlearn_steps is 100"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_model_is_loaded(tmp_path, settings, message):
    with pytest.raises(RequestError, match=message):
        UnlearnConfig(output_dir=str(tmp_path), robust=["undo"], **settings)


def test_a_run_of_too_few_epochs_is_refused_before_its_first_step(tmp_path):
    with pytest.raises(RequestError, match="the run has 4 steps and unlearn_steps is 100"):
        tiny_trainer(tmp_path, robust=["undo"], max_steps=-1, num_train_epochs=2).train()


def test_adapters_are_refused(tmp_path):
    from peft import LoraConfig

    with pytest.raises(RequestError, match="only adapters are trained"):
        undo_trainer(tmp_path, peft_config=LoraConfig(r=2, target_modules=["q_proj"])).train()
