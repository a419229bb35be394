"""Model families as tiny configurations: one way of training fits all, and what differs between them is kept."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_run import WORDS, assert_same, logged, tiny_rows, tiny_tokenizer, tiny_trainer, weights
from transformers import AutoModelForCausalLM

from hf_unlearn.errors import RequestError
from hf_unlearn.models.head import Tail, likely_tails
from hf_unlearn.trainer import UnlearnConfig, UnlearnTrainer
from hf_unlearn.trainer.forward import join
from hf_unlearn.trainer.references import CachedStates, LiveStates

COMMON = {
    "vocab_size": len(WORDS) + 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.1,
}
FAMILIES = {
    "Llama": {},
    "Qwen3": {},
    "Mistral": {},
    "Phi": {},
    "Phi3": {},
    "GPTNeoX": {},
    "Olmo2": {},
    "Gemma2": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 16},
    "Gemma": {},
    "Granite": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.25},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def family_model(name, **further):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **FAMILIES[name], **further})
    return getattr(transformers, f"{name}ForCausalLM")(config)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_family_trains_from_a_cache_and_is_saved_whole(tmp_path, name):
    model = family_model(name)
    trainer = tiny_trainer(tmp_path, model, max_steps=2, logging_steps=1, learning_rate=5e-3)
    before = weights(model)
    trainer.train()
    states = trainer.references["retain"].states
    assert isinstance(states, CachedStates) and not isinstance(states, LiveStates)
    first, second = logged(trainer)
    assert first["kl/retain"] == pytest.approx(0.0, abs=1e-5)
    assert first["loss/forget"] == pytest.approx(2 / 0.1 * 0.6931472, rel=1e-4)
    assert second["kl/retain"] > 1e-6
    trainer.save_merged(str(tmp_path / "saved"))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="float32").state_dict()
    now = weights(trainer.model)
    assert saved.keys() == now.keys()
    assert all(torch.equal(saved[key], now[key]) for key in now)
    assert any(not torch.equal(before[key], now[key]) for key in now)


@pytest.mark.parametrize("peft", [None, {"r": 4}], ids=["whole", "lora"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_family_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, name, peft):
    """Some families rename, split or fuse weights when they are saved, so names in files say nothing here."""
    settings = {"max_steps": 2, "logging_steps": 1, "learning_rate": 5e-3, "peft": peft, "save_total_limit": None}
    first = tiny_trainer(tmp_path, family_model(name), save_strategy="steps", save_steps=1, **settings)
    first.train()
    resumed = tiny_trainer(tmp_path, family_model(name), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_same(weights(first.model), weights(resumed.model))
    assert logged(first)[-1]["loss"] == logged(resumed)[-1]["loss"]


@pytest.mark.parametrize("peft", [None, {"r": 4}], ids=["whole", "lora"])
@pytest.mark.parametrize("change", ["missing", "unexpected", "reshaped"])
def test_a_checkpoint_with_other_weights_is_refused(tmp_path, peft, change):
    settings = {"max_steps": 2, "peft": peft}
    tiny_trainer(tmp_path, family_model("GPTNeoX"), save_strategy="steps", save_steps=1, **settings).train()
    checkpoint = tmp_path / "checkpoint-1"
    file = checkpoint / ("model.safetensors" if peft is None else "adapter_model.safetensors")
    tensors = load_file(file)
    name = sorted(name for name in tensors if "dense_h_to_4h" in name and "weight" in name)[0]
    changed = {
        "missing": {key: tensor for key, tensor in tensors.items() if key != name},
        "unexpected": {**tensors, name.replace("dense_h_to_4h", "dense_of_nobody"): tensors[name].clone()},
        "reshaped": {**tensors, name: tensors[name][:, :2].contiguous()},
    }[change]
    save_file(changed, file, metadata={"format": "pt"})
    trainer = tiny_trainer(tmp_path, family_model("GPTNeoX"), **settings)
    with pytest.raises(RequestError, match=r"training cannot go on from .*checkpoint-1"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(
    ("name", "tail"), [("Llama", Tail()), ("Gemma2", Tail(1.0, 5.0)), ("Granite", Tail(0.25)), ("Cohere", Tail(0.25))]
)
def test_what_is_done_to_the_heads_output_is_found(tmp_path, name, tail):
    model = family_model(name)
    assert tail in list(likely_tails(model))
    trainer = tiny_trainer(tmp_path, model)
    trainer._prepare_run(resuming=False)
    assert trainer.references["retain"].states.tail == tail
    hidden = torch.randn(3, model.config.vocab_size, dtype=torch.float64) * 20
    scaled = hidden * tail.scale
    by_hand = scaled if tail.cap is None else tail.cap * torch.tanh(scaled / tail.cap)
    torch.testing.assert_close(tail(hidden), by_hand)


def test_a_head_that_does_more_than_the_configuration_says_is_kept_alive(tmp_path):
    model = family_model("Llama")
    plain = model.forward

    def forward(*args, **kwargs):
        output = plain(*args, **kwargs)
        output.logits = output.logits.abs()
        return output

    model.forward = forward
    trainer = tiny_trainer(tmp_path, model)
    trainer._prepare_run(resuming=False)
    assert isinstance(trainer.references["retain"].states, LiveStates)


def test_the_router_loss_of_a_mixture_of_experts_is_kept(tmp_path):
    """The loss is that without it, plus its coefficient times the model's own router loss on the same rows."""
    losses, gradients = {}, {}
    for coefficient in (None, 0.5):
        further = {} if coefficient is None else {"output_router_logits": True, "router_aux_loss_coef": coefficient}
        trainer = tiny_trainer(tmp_path, family_model("Mixtral", **further), retain_loss_type="nll")
        trainer._prepare_run(resuming=False)
        inputs = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        losses[coefficient] = loss.item()
        gates = [p.grad.clone() for name, p in trainer.model.named_parameters() if "gate" in name and p.ndim == 2]
        gradients[coefficient] = gates
    joined = join([inputs["forget"], inputs["retain"]], 0)
    with torch.no_grad():
        router = trainer.model(input_ids=joined["input_ids"], attention_mask=joined["attention_mask"]).aux_loss
    assert router.item() > 0.5
    assert losses[0.5] == pytest.approx(losses[None] + 0.5 * router.item(), rel=1e-4)
    assert gradients[None] and not any(
        torch.allclose(with_it, without, atol=1e-6)
        for with_it, without in zip(gradients[0.5], gradients[None], strict=True)
    )


def test_terms_apart_have_the_router_loss_once(tmp_path):
    """A part that passes the terms apart must not double it: both runs log the same and step the same."""
    results = []
    for robust in ([], [{"name": "sam", "rho": 1e-9}]):
        further = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
        trainer = tiny_trainer(
            tmp_path,
            family_model("Mixtral", **further),
            retain_loss_type="nll",
            robust=copy.deepcopy(robust),
            max_steps=1,
            logging_steps=1,
        )
        trainer.train()
        results.append(logged(trainer)[0]["loss"])
    # The router loss is a mean over the tokens of a pass: apart it differs a little, doubled it would be 0.5 more.
    assert results[0] == pytest.approx(results[1], abs=0.1)


def test_what_fills_rows_up_changes_nothing(tmp_path):
    """A model without a pad token uses its end-of-text token: attention masks come from lengths. The head is tied."""
    results = []
    for filling in ("<pad>", "</s>"):
        model = family_model("Llama", tie_word_embeddings=True)
        model.config.pad_token_id = 0 if filling == "<pad>" else None
        tokenizer = tiny_tokenizer()
        tokenizer.pad_token = filling
        args = UnlearnConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True
        )
        rows = (tiny_rows("forget", 8), tiny_rows("retain", 8))
        trainer = UnlearnTrainer(model, args, *rows, processing_class=tokenizer)
        trainer.train()
        assert trainer.model.lm_head.weight is trainer.model.model.embed_tokens.weight
        results.append(weights(trainer.model))
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-4, atol=1e-5)
