"""Experts that transformers holds as one weight get adapters under the names that peft takes, and no others."""

from __future__ import annotations

import pytest
import torch
from text_models import make_model

from hf_unlearn.errors import RequestError
from hf_unlearn.models.adapters import add_adapters, build_peft_config, merged

IDS = torch.arange(12)[None]


@pytest.mark.parametrize(
    ("kind", "targets", "count"),
    [
        ("mixtral", ["w1", "w2", "w3"], 4),
        ("mixtral", ["w2"], 2),
        ("qwen3-moe", ["gate_proj", "up_proj", "down_proj"], 4),
        ("qwen3-moe", ["q_proj", "down_proj"], 4),
    ],
)
def test_experts_are_adapted_and_merged_as_they_were_trained(kind, targets, count):
    base = make_model(kind)
    adapted = add_adapters(make_model(kind), build_peft_config({"r": 4, "target_modules": targets}))
    inside = [name for name, weight in adapted.named_parameters() if "lora_A" in name and weight.requires_grad]
    assert len(inside) == count and any(".experts." in name for name in inside)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1, generator=generator)
        expected = adapted(input_ids=IDS).logits
        assert (expected - base(input_ids=IDS).logits).abs().max() > 1e-3
        assert (merged(adapted)(input_ids=IDS).logits - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "targets", "said"),
    [
        ("mixtral", {"target_modules": ["w1"]}, "w1 without also targeting w3"),
        ("mixtral", {"target_modules": ["gate_proj", "q_proj"]}, "'gate_proj', which MixtralForCausalLM does not"),
        ("mixtral", {"target_modules": ["w4"]}, "'w4', .* did you mean 'w3'"),
        ("qwen3-moe", {"target_modules": ["w2", "q_proj"]}, "'w2', which Qwen3MoeForCausalLM does not"),
        ("llama", {"target_modules": ["w1"]}, "'w1', which LlamaForCausalLM does not"),
        ("mixtral", {"target_modules": [], "target_parameters": ["experts.up_proj"]}, "'experts.up_proj', which"),
    ],
)
def test_names_that_no_weight_has_are_refused(kind, targets, said):
    with pytest.raises(RequestError, match=said):
        add_adapters(make_model(kind), build_peft_config({"r": 4, **targets}))
