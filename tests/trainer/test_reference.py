"""The target model's distribution, from a cache or from a live copy, is the same distribution."""

import copy

import pytest
import torch
from peft import LoraConfig
from tiny_run import assert_same, logged, tiny_model, tiny_trainer, weights
from torch import nn

from hf_unlearn.trainer.forward import forward_labels
from hf_unlearn.trainer.references import CachedStates, LiveStates


def retain_batch(trainer, size=4):
    return trainer.data_collator([trainer.train_dataset[index] for index in range(size)])["retain"]


def logits_of(model, batch):
    with torch.no_grad():
        return forward_labels(model, model, batch).logits


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("reference", ["cache", "model"])
def test_reference_is_the_target_after_training(tmp_path, reference, tie):
    target = tiny_model(tie=tie)
    trainer = tiny_trainer(tmp_path, copy.deepcopy(target), reference=reference)
    trainer.train()
    assert isinstance(trainer.references["retain"].states, CachedStates if reference == "cache" else LiveStates)
    batch = retain_batch(trainer)
    torch.testing.assert_close(
        trainer.references["retain"].logits(batch), logits_of(target, batch), rtol=1e-4, atol=1e-5
    )
    assert (logits_of(trainer.model, batch) - logits_of(target, batch)).abs().max() > 0.01


def test_cached_and_live_reference_train_alike(tmp_path):
    results = []
    for reference in ("cache", "model"):
        trainer = tiny_trainer(tmp_path, reference=reference, optim="sgd", learning_rate=0.1)
        trainer.train()
        results.append(weights(trainer.model))
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-4, atol=1e-5)


def test_only_hidden_states_of_labels_and_the_head_are_kept(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.train()
    rows = trainer.train_dataset.retain
    assert [tuple(hidden.shape) for hidden in trainer.references["retain"].states.head_inputs] == [
        (len(row.input_ids) - row.n_prompt, 64) for row in rows
    ]
    assert isinstance(trainer.references["retain"].states.head, nn.Linear)
    assert not any(parameter.requires_grad for parameter in trainer.references["retain"].states.head.parameters())


def test_a_frozen_head_is_not_copied(tmp_path):
    model = tiny_model()
    model.lm_head.requires_grad_(False)
    trainer = tiny_trainer(tmp_path, model)
    trainer.train()
    assert trainer.references["retain"].states.head is model.lm_head


def test_a_model_that_caps_its_logits_falls_back_to_a_live_copy(tmp_path, caplog):
    class Capped(type(tiny_model())):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = 2.0 * torch.tanh(output.logits / 2.0)
            return output

    model = tiny_model()
    model.__class__ = Capped
    target = copy.deepcopy(model)
    trainer = tiny_trainer(tmp_path, model)
    with caplog.at_level("WARNING"):
        trainer.train()
    assert "kept in memory" in caplog.text
    assert isinstance(trainer.references["retain"].states, LiveStates)
    batch = retain_batch(trainer)
    assert_same({"": trainer.references["retain"].logits(batch)}, {"": logits_of(target, batch)})


@pytest.mark.parametrize("reference", ["cache", "model"])
def test_another_reference_model(tmp_path, reference):
    other = tiny_model(seed=5)
    trainer = tiny_trainer(tmp_path, ref_model=copy.deepcopy(other), reference=reference, logging_steps=1)
    trainer.train()
    batch = retain_batch(trainer)
    torch.testing.assert_close(
        trainer.references["retain"].logits(batch), logits_of(other, batch), rtol=1e-4, atol=1e-5
    )
    assert logged(trainer)[0]["kl/retain"] > 0.1


@pytest.mark.parametrize("reference", ["cache", "model"])
def test_adapters_off_is_the_reference(tmp_path, reference):
    target = tiny_model()
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    trainer = tiny_trainer(
        tmp_path, copy.deepcopy(target), peft_config=config, reference=reference, learning_rate=1e-2, logging_steps=1
    )
    trainer.train()
    batch = retain_batch(trainer)
    torch.testing.assert_close(
        trainer.references["retain"].logits(batch), logits_of(target, batch), rtol=1e-4, atol=1e-5
    )
    assert logged(trainer)[0]["kl/retain"] > 1e-4  # the adapters start away from zero
    base = trainer.model.get_base_model()
    assert torch.equal(
        base.model.layers[0].self_attn.q_proj.base_layer.weight, target.model.layers[0].self_attn.q_proj.weight
    )
    if reference == "cache":
        assert trainer.references["retain"].states.head is base.lm_head


def test_merged_adapters_are_saved_as_a_plain_model(tmp_path):
    trainer = tiny_trainer(tmp_path, peft_config=LoraConfig(r=4, target_modules=["q_proj"]), learning_rate=1e-2)
    trainer.train()
    batch = retain_batch(trainer)
    expected = logits_of(trainer.model, batch)
    trainer.save_merged(str(tmp_path / "out"))
    loaded = type(tiny_model()).from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(loaded, batch), expected, rtol=1e-3, atol=1e-4)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
