"""LoRA, DoRA and QLoRA from a recipe's mapping: what is trained, what is refused, what is saved."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from tiny_run import assert_same, logged, tiny_model, tiny_tokenizer, tiny_trainer, weights
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_unlearn.errors import RequestError
from hf_unlearn.models.adapters import DEFAULTS, build_peft_config, merge_into
from hf_unlearn.recipe.method_settings import make_config
from hf_unlearn.trainer import UnlearnConfig

NF4 = {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}


@pytest.fixture
def start(tmp_path):
    folder = tmp_path / "start"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def adapter_weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


CHECKPOINTING = [
    {},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING, ids=["plain", "checkpointing", "reentrant"])
@pytest.mark.parametrize("kind", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_every_adapter_weight_moves_and_nothing_else(tmp_path, start, kind, checkpointing):
    trainer = tiny_trainer(tmp_path, model=start, peft={"r": 4, **kind}, max_steps=3, **checkpointing)
    before, everything = adapter_weights(trainer), weights(trainer.model)
    assert len(before) == 7 * 2 * (3 if kind else 2)
    trainer.train()
    assert [name for name, tensor in before.items() if torch.equal(tensor, adapter_weights(trainer)[name])] == []
    after = weights(trainer.model)
    assert all(torch.equal(everything[name], after[name]) for name in everything.keys() - before.keys())


def test_checkpointing_changes_no_step(tmp_path, start):
    """Elsewhere adapters and checkpointing together train nothing, without a word."""
    results = []
    for settings in CHECKPOINTING:
        trainer = tiny_trainer(tmp_path, model=start, peft={"r": 4}, max_steps=2, optim="sgd", **settings)
        trainer.train()
        results.append(adapter_weights(trainer))
    for other in results[1:]:
        for name, tensor in results[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


def test_full_rank_on_one_layer_steps_in_its_space(tmp_path, start):
    """With B = 0 and A = identity the first gradient step on B is that of the whole matrix: W - lr G."""
    whole = tiny_trainer(tmp_path, model=start, optim="sgd", max_steps=1, learning_rate=0.05, max_grad_norm=0)
    name = "model.layers.1.mlp.up_proj"
    for key, parameter in whole.model.named_parameters():
        parameter.requires_grad_(key == f"{name}.weight")
    whole.train()
    wanted = whole.model.get_parameter(f"{name}.weight").detach()

    peft = {"r": 64, "lora_alpha": 64, "target_modules": ["up_proj"], "layers_to_transform": [1]}
    settings = {"optim": "sgd", "max_steps": 1, "learning_rate": 0.05, "max_grad_norm": 0}
    trainer = tiny_trainer(tmp_path, model=start, peft=peft, **settings)
    (adapter,) = [module for key, module in trainer.model.named_modules() if key.endswith("up_proj") and "1" in key]
    with torch.no_grad():
        adapter.lora_A["default"].weight.copy_(torch.eye(64))
    trainer.train()
    merged = trainer.model.merge_and_unload().get_parameter(f"{name}.weight")
    torch.testing.assert_close(merged, wanted, rtol=1e-4, atol=1e-6)


def test_qlora_trains_on_nf4_and_is_merged_into_full_precision(tmp_path, start):
    trainer = tiny_trainer(
        tmp_path / "q", model=start, peft={"r": 4}, model_init_kwargs=copy.deepcopy(NF4), logging_steps=1
    )
    before = adapter_weights(trainer)
    trainer.train()
    assert logged(trainer)[0]["kl/retain"] == pytest.approx(0, abs=1e-5)
    after = adapter_weights(trainer)
    assert [name for name, tensor in before.items() if torch.equal(tensor, after[name])] == []

    trainer.save_merged(str(tmp_path / "saved"), "float32")
    saved, first = load_file(tmp_path / "saved" / "model.safetensors"), tiny_model().state_dict()
    name = "model.layers.0.self_attn.q_proj"
    a, b = (after[f"base_model.model.{name}.lora_{side}.default.weight"] for side in "AB")
    scale = DEFAULTS["lora_alpha"] / 4
    torch.testing.assert_close(saved[f"{name}.weight"], first[f"{name}.weight"] + scale * b @ a, rtol=1e-4, atol=1e-5)
    assert torch.equal(saved["model.norm.weight"], first["model.norm.weight"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == torch.float32


def test_a_quantized_base_without_adapters_is_refused_with_the_recipe(tmp_path, start):
    with pytest.raises(RequestError, match="quantized format, whose weights cannot be trained: add peft"):
        make_config({"model_init_kwargs": copy.deepcopy(NF4)}, tmp_path, 0)
    with pytest.raises(RequestError, match="the model is loaded in a quantized format"):
        tiny_trainer(tmp_path, model=start, model_init_kwargs=copy.deepcopy(NF4))
    loaded = AutoModelForCausalLM.from_pretrained(start, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    with pytest.raises(RequestError, match="the LlamaForCausalLM is loaded in a quantized format"):
        tiny_trainer(tmp_path, model=loaded)


def test_qlora_as_trl_users_write_it(tmp_path, start):
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    trainer = tiny_trainer(
        tmp_path,
        model=start,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        model_init_kwargs={"quantization_config": quantization},
        max_steps=1,
    )
    trainer.train()
    assert trainer.model.get_base_model().is_loaded_in_4bit and adapter_weights(trainer)
    trainer.save_model(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "This is a set of adapters that make a local model forget" in card and "More Information Needed" not in card
    assert "library_name: peft" in card


def test_a_folder_that_is_stored_quantized_is_refused_before_its_weights_are_read(tmp_path, start):
    model = AutoModelForCausalLM.from_pretrained(start, **copy.deepcopy(NF4))
    model.save_pretrained(tmp_path / "packed")
    tiny_tokenizer().save_pretrained(tmp_path / "packed")
    (tmp_path / "packed" / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(RequestError, match="quantized format"):
        tiny_trainer(tmp_path, model=str(tmp_path / "packed"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_modules": ["q_proj", "q_prj"]}, r"'q_prj'.*did you mean 'q_proj'"),
        ({"target_modules": ".*no_such"}, r"'\.\*no_such'"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 2]}, "layer 2, and the model has 2: use 0 to 1"),
    ],
)
def test_modules_that_are_not_there_are_refused_before_weights_are_read(tmp_path, start, given, message):
    (tmp_path / "start" / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(RequestError, match=message):
        tiny_trainer(tmp_path, model=start, peft=given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 8}, "peft has no key 'rank'"),
        ({"r": 0}, "peft.r is 0"),
        ({"bias": "all"}, "biases of the base would change"),
        ({"init_lora_weights": "pissa"}, "would no longer be the target"),
        ("lora", "must be a mapping"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_recipe(tmp_path, given, message):
    with pytest.raises(RequestError, match=message):
        UnlearnConfig(output_dir=str(tmp_path), use_cpu=True, peft=given)


def test_defaults_are_filled_in():
    config = build_peft_config({"r": 8})
    assert (config.r, config.lora_alpha, config.target_modules) == (8, DEFAULTS["lora_alpha"], "all-linear")


TIED = {
    "head": {"target_modules": ["lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens"]},
    "both": {"target_modules": ["lm_head", "embed_tokens", "q_proj"]},
    "copied head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "copied embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
    "body": {"target_modules": ["q_proj"]},
}


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(4, 40).reshape(2, 18)).logits.double()


@pytest.mark.parametrize("quantized", [False, True], ids=["in place", "base read again"])
@pytest.mark.parametrize("peft", list(TIED.values()), ids=list(TIED))
def test_what_is_saved_of_a_tied_model_is_what_was_trained(tmp_path, peft, quantized):
    """The adapter of a head that is tied to the embeddings must not move the embeddings too."""
    start = tmp_path / "start"
    tiny_model(tie=True).save_pretrained(start)
    tiny_tokenizer().save_pretrained(start)
    trainer = tiny_trainer(tmp_path / "run", model=str(start), peft={"r": 4, **peft}, max_steps=3, learning_rate=1e-2)
    untouched = logits_of(trainer.model)
    trainer.train()
    trained = logits_of(trainer.model)
    if quantized:
        trainer.save_model(str(tmp_path / "adapters"))
        merge_into(str(start), tmp_path / "adapters", tmp_path / "saved", None)
    else:
        trainer.save_merged(str(tmp_path / "saved"))
    saved = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"))
    assert (trained - untouched).norm() > 0.01 * untouched.norm()
    assert (saved - trained).norm() < 1e-6 * trained.norm()


@pytest.mark.parametrize("peft", list(TIED.values()), ids=list(TIED))
def test_adapters_on_a_tied_model_go_on_from_a_checkpoint_bit_for_bit(tmp_path, peft):
    settings = {"max_steps": 2, "peft": {"r": 4, **peft}}
    first = tiny_trainer(tmp_path, tiny_model(tie=True), save_strategy="steps", save_steps=1, **settings)
    first.train()
    resumed = tiny_trainer(tmp_path, tiny_model(tie=True), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_same(weights(first.model), weights(resumed.model))


def test_an_adapter_on_a_layer_that_stands_in_several_places_is_refused(tmp_path):
    model = tiny_model()
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(RequestError, match=r"layers\.0\.mlp\.up_proj uses a weight that stands in several places"):
        tiny_trainer(tmp_path, model, peft={"r": 4, "target_modules": ["up_proj"]})


def test_adapters_leave_the_log_lines_of_the_program_alone(tmp_path):
    """peft imports GPT-QModel where it is installed, which greets with a banner and shows everybody's log lines."""
    pytest.importorskip("gptqmodel")
    code = (
        "import sys, logging\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import hf_unlearn\nfrom hf_unlearn import UnlearnTrainer\nfrom tiny_run import tiny_trainer\n"
        f"tiny_trainer({str(tmp_path)!r}, peft={{'r': 2}}, end='auto')\n"
        "print(logging.getLogger().handlers, logging.getLogger().level, 'gptqmodel' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 30 True\n"
    for said in ("GPT-QModel", "WARN", "INFO"):
        assert said not in done.stderr
