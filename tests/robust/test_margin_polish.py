"""The polish takes over for the last steps and leaves everything else alone."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_run import assert_same, logged, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.losses.forget.ga import GradientAscentLoss
from hf_unlearn.losses.forget.margin import MarginLoss
from hf_unlearn.losses.forget.margin_to_reference import MarginToReferenceLoss
from hf_unlearn.losses.forget.npo import NPOLoss
from hf_unlearn.recipe.method_settings import make_config
from hf_unlearn.robust.margin_polish import MarginPolish


@pytest.mark.parametrize(("share", "steps", "first"), [(0.2, 10, 8), (0.25, 10, 7), (0.01, 10, 9), (0.5, 3, 1)])
def test_the_last_share_of_steps_has_the_margin(share, steps, first):
    part = MarginPolish(share, kappa=2.0)
    taken = [part.forget_loss(GradientAscentLoss(), step, steps) for step in range(steps)]
    assert [isinstance(loss, MarginLoss) for loss in taken] == [step >= first for step in range(steps)]
    assert taken[-1] == MarginLoss(2.0) == part.further_forget_losses()[0]


def test_measured_from_the_reference_where_wished():
    assert isinstance(MarginPolish(to_reference=True).further_forget_losses()[0], MarginToReferenceLoss)


def test_the_trainer_takes_the_loss_of_the_step_that_comes(tmp_path):
    """Plain NPO and NPO with a polish make the same first steps; then the logged loss is the hinge."""
    settings = {"loss_type": "npo", "max_steps": 6, "logging_steps": 1}
    plain = tiny_trainer(tmp_path / "plain", **settings)
    polished = tiny_trainer(tmp_path / "polished", robust=[{"name": "margin-polish", "share": 0.5}], **settings)
    for trainer in (plain, polished):
        trainer.train()
    both = list(zip(logged(plain), logged(polished), strict=True))
    assert [one["loss/forget"] == other["loss/forget"] for one, other in both] == [True] * 3 + [False] * 3
    assert both[0][0]["loss/forget"] == pytest.approx(20 * 0.6931, rel=1e-3)  # NPO at its reference
    assert not torch.equal(plain.model.lm_head.weight, polished.model.lm_head.weight)
    assert isinstance(polished.objective.forget_loss, NPOLoss)


def test_steps_of_whole_epochs_count_too(tmp_path):
    trainer = tiny_trainer(tmp_path, loss_type="ga", max_steps=-1, num_train_epochs=2, robust=["margin-polish"])
    kinds = []
    trainer.add_callback(_Watch(lambda: kinds.append(type(trainer.objective.losses["forget"]))))
    trainer.train()
    assert kinds == [GradientAscentLoss] * 3 + [MarginLoss]  # eight rows, four a step, two epochs


def _Watch(do):
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            do()

    return Watch()


@pytest.mark.parametrize("to_reference", [False, True])
def test_a_resumed_polish_ends_bit_for_bit_as_one_in_one_go(tmp_path, to_reference):
    part = {"name": "margin-polish", "share": 0.5, "kappa": 3.0, "to_reference": to_reference}
    settings = {"loss_type": "npo", "robust": [part], "max_steps": 6, "save_strategy": "steps", "save_steps": 1}
    whole = tiny_trainer(tmp_path, save_total_limit=9, **settings)
    whole.train()
    for step in (2, 3, 4):  # before the polish, at its start, and within it
        resumed = tiny_trainer(tmp_path, **{**settings, "save_strategy": "no"})
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert_same(weights(resumed.model), weights(whole.model))


def test_after_the_polish_true_tokens_trail(tmp_path):
    """A margin of kappa is reached on the forget rows where training lasts long enough."""
    target = tiny_model()
    trainer = tiny_trainer(
        tmp_path,
        copy.deepcopy(target),
        loss_type="npo",
        robust=[{"name": "margin-polish", "share": 0.9, "kappa": 9.0}],
        retain_weight=0.1,
        max_steps=40,
        learning_rate=3e-3,
        logging_steps=1,
    )
    trainer.train()
    hinge = [entry["loss/forget"] for entry in logged(trainer)][4:]
    assert hinge[0] > 0.5 and hinge[-1] < 0.1 * hinge[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"robust": [{"name": "margin-polish", "share": 1.0}]}, "share is 1.0"),
        ({"robust": [{"name": "margin-polish", "kappa": -1}]}, "kappa"),
        ({"robust": ["margin-polish"], "loss_type": "margin"}, "leave the polish out"),
    ],
)
def test_what_makes_no_sense_is_refused_at_recipe_check(tmp_path, settings, message):
    with pytest.raises(RequestError, match=message):
        make_config(settings, tmp_path, 0)
