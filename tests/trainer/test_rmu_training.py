"""RMU in the trainer: what moves, how far the passes go, and that the target is held where it was."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig
from tiny_run import logged, tiny_model, tiny_trainer, weights
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from hf_unlearn.errors import RequestError
from hf_unlearn.losses.forget.rmu import control_vector
from hf_unlearn.trainer.model_setup import mlp_outputs

RMU = {"loss_type": "rmu", "retain_loss_type": "hidden"}


def rmu(layer: int, **parameters) -> dict:
    return {**RMU, "loss_kwargs": {"layer": layer, **parameters}, "retain_loss_kwargs": {"layer": layer}}


def deep_model(seed: int = 0):
    model = tiny_model(seed)
    layers = [copy.deepcopy(model.model.layers[n % 2]) for n in range(4)]
    for number, layer in enumerate(layers):
        layer.self_attn.layer_idx = number
    model.model.layers = torch.nn.ModuleList(layers)
    model.config.num_hidden_layers = 4
    model.config.layer_types = None
    return model


def moved_names(trainer, before) -> set[str]:
    after = trainer.model.state_dict()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def down(*layers: int) -> set[str]:
    return {f"model.layers.{layer}.mlp.down_proj.weight" for layer in layers}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (rmu(2), down(0, 1, 2)),
        (rmu(2, trained=1), down(2)),
        ({**rmu(3), "trained_parameters": ["*.3.mlp.down_proj.*", "*.0.mlp.down_proj.*"]}, down(0, 3)),
        ({**rmu(2), "retain_loss_type": "nll", "retain_loss_kwargs": None}, down(0, 1, 2)),
    ],
    ids=["default", "one-layer", "named", "with-nll"],
)
def test_only_the_projections_that_are_trained_move(tmp_path, settings, expected):
    trainer = tiny_trainer(tmp_path, deep_model(), weight_decay=0.1, **settings)
    before = weights(trainer.model)
    trainer.train()
    assert moved_names(trainer, before) == expected


def test_nothing_above_the_layer_is_trained_or_run(tmp_path):
    trainer = tiny_trainer(tmp_path, deep_model(), **rmu(1, trained=0))
    before, ran = weights(trainer.model), []
    for number, layer in enumerate(trainer.model.model.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    trainer.train()
    assert set(ran) == {0, 1}
    moved = moved_names(trainer, before)
    assert "model.embed_tokens.weight" in moved and "model.layers.1.mlp.down_proj.weight" in moved
    assert not [
        name for name in moved if name.startswith(("model.layers.2", "model.layers.3", "model.norm", "lm_head"))
    ]
    assert not any(parameter.requires_grad for parameter in trainer.model.model.norm.parameters())


def test_no_gradient_below_the_trained_layers(tmp_path):
    trainer = tiny_trainer(tmp_path, deep_model(), **rmu(3, trained=2))
    trainer._prepare_run(resuming=False)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    trainer.compute_loss(trainer.model, batch).backward()
    with_gradient = {name for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    assert with_gradient == down(2, 3)


def test_hidden_states_go_to_the_control_vector_and_stay_on_retain_rows(tmp_path):
    target = tiny_model()
    trainer = tiny_trainer(
        tmp_path,
        copy.deepcopy(target),
        **rmu(1, coefficient=20.0, vector_seed=2),
        retain_weight=5.0,
        max_steps=60,
        learning_rate=1e-2,
        logging_steps=1,
    )
    trainer.train()
    first, last = logged(trainer)[0], logged(trainer)[-1]
    assert first["loss/retain"] == pytest.approx(0.0, abs=1e-8)
    assert last["loss/forget"] < 0.5 * first["loss/forget"]
    assert "logps/forget" not in first  # no logits were computed
    row = trainer.train_dataset.forget[0]
    with torch.no_grad():
        states = trainer.model.model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
        after = trainer.model.model.layers[1](states[1], position_embeddings=_positions(trainer.model, states[1]))
    after = after[0] if isinstance(after, tuple) else after
    similarity = torch.cosine_similarity(after[0, -2], control_vector(64, 2).float(), dim=0)
    assert similarity > 0.7


def _positions(model, states):
    return model.model.rotary_emb(states, torch.arange(states.shape[1])[None])


def test_cached_hidden_states_are_the_targets(tmp_path):
    target = deep_model()
    trainer = tiny_trainer(tmp_path, copy.deepcopy(target), **rmu(2))
    live = tiny_trainer(tmp_path, copy.deepcopy(target), **rmu(2), reference="model")
    for each in (trainer, live):
        each.train()
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])["retain"]
    found = [each.references["retain"].hidden(batch) for each in (trainer, live)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        hidden = []
        for number in batch["row"].tolist():
            row = trainer.train_dataset.retain[number]
            states = target.model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states[3]
            hidden.append(states[0, row.n_prompt - 1 : len(row.input_ids) - 1])
    torch.testing.assert_close(found[0], torch.cat(hidden), rtol=1e-4, atol=1e-5)


def test_accumulation_changes_nothing_but_rounding(tmp_path):
    found = []
    for size, steps in ((4, 1), (2, 2)):
        trainer = tiny_trainer(
            tmp_path,
            deep_model(),
            **rmu(2),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            train_sampling_strategy="sequential",
            optim="sgd",
            max_steps=2,
        )
        trainer.train()
        found.append(weights(trainer.model))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-4, atol=1e-6)


def test_adapters_are_all_trained_up_to_the_layer(tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    trainer = tiny_trainer(tmp_path, deep_model(), peft_config=config, **rmu(1), learning_rate=1e-2)
    before = weights(trainer.model)
    trainer.train()
    moved = moved_names(trainer, before)
    adapters = {name for name in before if "lora_" in name}
    below = {name for name in adapters if ".layers.0." in name or ".layers.1." in name}
    assert moved == below  # the layers above are neither run nor changed


def test_a_layer_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"the layer of RMULoss is 7, but .* has 2 layers"):
        tiny_trainer(tmp_path, loss_type="rmu")
    with pytest.raises(RequestError, match="the layer of HiddenRetainLoss is 7"):
        tiny_trainer(tmp_path, retain_loss_type="hidden")


def test_a_pattern_that_fits_nothing_is_refused(tmp_path):
    trainer = tiny_trainer(tmp_path, trained_parameters=["model.layers.0.mlp.down_proj"])
    with pytest.raises(RequestError, match=r"did you mean 'model\.layers\.0\.mlp\.down_proj\.weight'"):
        trainer.train()


def test_the_mlp_output_is_found_in_another_family():
    config = GPTNeoXConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    names = mlp_outputs(GPTNeoXForCausalLM(config), [1, 2])
    assert names == {f"gpt_neox.layers.{layer}.mlp.dense_4h_to_h.weight" for layer in (1, 2)}
