"""Two CPU processes under DeepSpeed ZeRO-2 and ZeRO-3 and under FSDP2 make the run of one process.

accelerate falls back to DDP in silence, so each test looks at what really ran, and at whether weights were in pieces.
"""

import copy
import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import logged, tiny_model, tiny_tokenizer, tiny_trainer, weights
from transformers import AutoModelForCausalLM
from two_processes import run_job

pytestmark = pytest.mark.slow

SETTINGS = {
    "loss_type": "npo",
    "retain_loss_type": "kl",
    "learning_rate": 0.01,
    "max_steps": 3,
    "logging_steps": 1,
    "train_sampling_strategy": "sequential",
    "save_strategy": "steps",
    "save_steps": 2,
}
SHARED = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
DEEPSPEED = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}
ZERO3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}
FSDP = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "state_dict_type": "FULL_STATE_DICT"}
WAYS = {
    "zero2": ({"deepspeed": {**DEEPSPEED, "zero_optimization": {"stage": 2}}}, "DEEPSPEED", False),
    "zero3": ({"deepspeed": {**DEEPSPEED, "zero_optimization": ZERO3}}, "DEEPSPEED", True),
    "fsdp2": ({"fsdp": "full_shard auto_wrap", "fsdp_config": FSDP}, "FSDP", True),
}


@pytest.fixture(params=list(WAYS))
def way(request):
    if request.param.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    return WAYS[request.param]


def save_start(folder, **settings):
    tiny_model(**settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def check_type(made, kind, in_pieces):
    whole = max(parameter.numel() for parameter in tiny_model().parameters())
    assert (made["type"], made["processes"]) == (kind, 2)
    # ZeRO-3 leaves empty tensors between passes, FSDP2 its shard.
    assert made["largest"] <= whole / 2 if in_pieces else made["largest"] == whole


def test_steps_saves_and_resumes_as_one_process(tmp_path, way):
    settings, kind, in_pieces = way
    start = save_start(tmp_path / "start", tie=True)
    alone = tiny_trainer(tmp_path / "alone", model=start, per_device_train_batch_size=4, **SETTINGS)
    alone.train()

    job = {"model": start, "settings": {**SETTINGS, **SHARED, **copy.deepcopy(settings)}}
    made = run_job(tmp_path, {**job, "saved": "saved"})
    check_type(made, kind, in_pieces)
    for one, two in zip(logged(alone), made["log"], strict=True):
        for key in ("loss", "loss/forget", "loss/retain", "logps/forget", "logps/retain", "kl/retain", "grad_norm"):
            assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-6)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    assert saved.keys() == alone.model.state_dict().keys()
    for name, tensor in weights(alone.model).items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-3, atol=1e-4)

    again = run_job(tmp_path, {**job, "saved": "resumed", "resume": "checkpoint-2"})
    check_type(again, kind, in_pieces)
    assert again["log"][-1]["loss"] == made["log"][-1]["loss"]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("saved", "resumed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_adapters_are_merged_into_one_whole_model(tmp_path, way):
    settings, kind, _ = way
    start = save_start(tmp_path / "start")
    adapters = {"peft": {"r": 4, "lora_alpha": 8}, "gradient_checkpointing": True}
    run = {**SETTINGS, **adapters, "save_strategy": "no"}
    alone = tiny_trainer(tmp_path / "alone", model=start, per_device_train_batch_size=4, **run)
    alone.train()
    alone.save_merged(str(tmp_path / "alone"), "bfloat16")

    job = {"model": start, "settings": {**run, **SHARED, **copy.deepcopy(settings)}, "saved": "saved"}
    made = run_job(tmp_path, {**job, "dtype": "bfloat16"})
    assert made["type"] == kind
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "saved"))
    before = load_file(tmp_path / "start" / "model.safetensors")
    assert one.keys() == two.keys() == before.keys()
    assert {tensor.dtype for tensor in two.values()} == {torch.bfloat16}
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=2e-3)
    moved = [name for name in two if not torch.equal(two[name], before[name].bfloat16())]
    assert len([name for name in moved if "proj" in name]) == 14
