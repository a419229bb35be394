"""Running a model in float32 module by module: the numbers of the float32 model, and never a second whole copy."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from hf_unlearn.quantization.base import probe_logits
from hf_unlearn.quantization.streaming import read_stored, streamed_logits


@pytest.fixture
def whole(odd):
    """Logits of the float32 model of the bfloat16 folder."""
    return probe_logits(AutoModelForCausalLM.from_pretrained(odd, dtype=torch.float32).eval())


def test_gives_the_logits_of_the_float32_model(odd, whole) -> None:
    model = read_stored(odd)
    assert model.dtype == torch.bfloat16 and torch.equal(streamed_logits(model), whole)
    # The numbers are not those of a bfloat16 forward, and the model is as it was.
    assert not torch.equal(probe_logits(model), whole)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_one_module_at_a_time_is_in_float32(odd) -> None:
    model = read_stored(odd)
    seen = []

    def count(module: nn.Module, _: object) -> None:
        holders = [
            item
            for item in model.modules()
            if any(p.dtype == torch.float32 for p in item._parameters.values() if p is not None)
        ]
        seen.append((module, holders))

    def weight_of(name: str, stored: torch.Tensor) -> torch.Tensor:
        asked.append(name)
        return stored.float()

    asked: list[str] = []
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda module, *_: count(module, None))
    streamed_logits(model, weight_of)
    assert len(seen) == 15 and all(holders == [module] for module, holders in seen)
    # The embedding, which is the head as well, is asked for in both of its places, under its first name.
    assert asked.count("model.embed_tokens.weight") == 2 and "lm_head.weight" not in asked


def test_weights_can_be_others_than_the_stored_ones(odd, whole) -> None:
    zeroed = streamed_logits(read_stored(odd), lambda name, stored: torch.zeros_like(stored, dtype=torch.float32))
    assert not zeroed.any() and whole.any()


def test_a_module_that_uses_the_weight_of_another_runs_too(odd, whole) -> None:
    model = read_stored(odd)
    block = model.model.layers[0].mlp

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        gate = nn.functional.linear(inputs, block.gate_proj.weight, block.gate_proj.bias)
        return block.down_proj(block.act_fn(gate) * block.up_proj(inputs))

    block.forward = forward
    assert torch.equal(streamed_logits(model), whole)
