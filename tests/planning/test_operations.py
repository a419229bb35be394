"""Planned operations and kept bytes, held against what torch counts on real models."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, tiny_config
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from hf_unlearn.models.loading import empty_model_of
from hf_unlearn.planning.activations import kept_by
from hf_unlearn.planning.operations import Pass, forward, training
from hf_unlearn.planning.shape import shape_of

ROWS, LENGTH = 3, 24
PASS = Pass(ROWS, LENGTH, ROWS * LENGTH)


def real_model(family: str, **kwargs: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family), **kwargs).train()


def ids() -> torch.Tensor:
    return torch.randint(0, 300, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))


def counted(model) -> tuple[int, int]:
    """Operations of a forward pass, and of one with its backward pass, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids(), use_cache=False).logits
        before = counter.get_total_flops()
        logits.sum().backward()
    return before, counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(family):
    shape = shape_of(empty_model_of(tiny_config(family)))
    # Fused kernels are not counted by torch, and do the same.
    model = real_model(family, attn_implementation="eager", experts_implementation="eager")
    assert (forward(shape, PASS), training(shape, PASS)) == counted(model)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())


def test_adapters_leave_out_gradients_of_the_frozen_weights():
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    shape = shape_of(get_peft_model(empty_model_of(tiny_config("llama")), config))
    model = get_peft_model(real_model("llama", attn_implementation="eager"), config)
    model.enable_input_require_grads()
    assert (forward(shape, PASS), training(shape, PASS)) == counted(model)
    assert shape.trained == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert not shape.head_trained


def test_checkpointing_computes_the_layers_once_more():
    shape = shape_of(empty_model_of(tiny_config("llama")))
    head = 2 * PASS.labels * shape.head
    again = training(shape, PASS, recomputed=True) - training(shape, PASS)
    assert again == forward(shape, PASS) - head


def kept_really(model) -> int:
    """Bytes that autograd keeps of a pass through the layers of a real model, weights left out."""
    storages: dict[int, torch.UntypedStorage] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, LENGTH // 2 :] = 0  # padding, as in a real batch
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=ids(), attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_pass_keeps_is_what_autograd_keeps(family):
    planned = kept_by(empty_model_of(tiny_config(family)), ROWS, LENGTH, torch.float32)
    assert planned is not None
    real = kept_really(real_model(family))
    assert planned.bytes(checkpointing=False) == pytest.approx(real, rel=0.08)
    assert planned.inputs == 3 * ROWS * LENGTH * 64 * 4
    assert planned.bytes(checkpointing=True) < planned.bytes(checkpointing=False)


def test_a_plan_leaves_the_model_that_it_looks_at_alone():
    model = empty_model_of(tiny_config("llama"))
    before = model.config.to_dict()
    kept_by(model, 1, 8, torch.bfloat16)
    assert model.config.to_dict() == before and model.config._attn_implementation == "sdpa"
    assert next(model.parameters()).dtype == torch.float32
