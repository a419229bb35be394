"""Task-vector negation, by hand."""

import pytest
import torch
from tiny_run import tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.losses.base import LabelScores
from hf_unlearn.losses.forget.learn import LearningLoss
from hf_unlearn.robust.task_vector import TaskVector
from hf_unlearn.trainer import UnlearnConfig

LEARNS = {"loss_type": "nll", "retain_loss_type": "none", "retain_dataset": None}


def test_learning_loss_by_hand():
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.5, -0.5]])
    scores = LabelScores(logits, torch.tensor([2, 1]), torch.tensor([0, 0]), 1)
    wide = logits.double()
    by_hand = -(wide[0, 2] - wide[0].exp().sum().log()) - (wide[1, 1] - wide[1].exp().sum().log())
    found = LearningLoss()(scores)
    assert found.total.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert found.count.item() == 2


def test_the_weights_end_as_far_on_the_other_side(tmp_path):
    original = weights(tiny_model())
    learned = tiny_trainer(tmp_path / "learned", **LEARNS)
    learned.train()
    negated = tiny_trainer(tmp_path / "negated", robust=[{"name": "task-vector", "alpha": 2.0}], **LEARNS)
    negated.train()
    assert any(not torch.equal(original[name], value) for name, value in weights(learned.model).items())
    for name, value in weights(learned.model).items():
        by_hand = original[name].double() - 2.0 * (value.double() - original[name].double())
        torch.testing.assert_close(weights(negated.model)[name].double(), by_hand, rtol=0, atol=1e-6)


def test_forget_answers_get_less_likely(tmp_path):
    trainer = tiny_trainer(tmp_path, robust=[{"name": "task-vector", "alpha": 1.0}], max_steps=8, **LEARNS)

    def mean_logp():
        context = trainer.training_context(resuming=False)
        with torch.no_grad():
            return torch.cat([context.score(batch).logps for batch in context.batches(context.forget_rows)]).mean()

    before = mean_logp()
    trainer.train()
    assert mean_logp() < before - 0.1


def test_with_lora_the_merged_change_is_negated(tmp_path):
    from peft import LoraConfig

    def adapted():
        return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=True)

    settings = {**LEARNS, "learning_rate": 1e-2, "max_steps": 6}
    original = weights(tiny_model())
    learned = tiny_trainer(tmp_path / "learned", peft_config=adapted(), **settings)
    learned.train()
    negated = tiny_trainer(
        tmp_path / "negated", peft_config=adapted(), robust=[{"name": "task-vector", "alpha": 3.0}], **settings
    )
    negated.train()
    one, other = (weights(trainer.model.merge_and_unload()) for trainer in (learned, negated))
    moved = 0.0
    for name, value in one.items():
        moved = max(moved, float((value - original[name]).abs().max()))
        torch.testing.assert_close(other[name] - original[name], -3 * (value - original[name]), rtol=1e-4, atol=1e-6)
    assert moved > 1e-4


def test_adapters_that_were_trained_before_are_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with pytest.raises(RequestError, match="only new LoRA adapters"):
        tiny_trainer(tmp_path, model, robust=["task-vector"], **LEARNS).train()


def test_bad_requests_are_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(RequestError, match="alpha is 0"):
        TaskVector(alpha=0)
    with pytest.raises(RequestError, match="npo does not learn it: set loss_type to nll"):
        UnlearnConfig(output_dir=str(tmp_path), robust=["task-vector"])
