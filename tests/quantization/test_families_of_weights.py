"""What is quantized is told by what a weight is, not by how many dimensions it has; the rest is refused early."""

import pytest
import torch
from text_models import make_model
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from hf_unlearn.errors import RequestError
from hf_unlearn.models.loading import empty_model_of
from hf_unlearn.quantization import FORMATS
from hf_unlearn.quantization.base import fused_experts
from hf_unlearn.quantization.uncalled import uncalled_layers

KINDS = ("llama", "tied", "biased", "neox", "mixtral", "qwen3-moe")


def mamba():
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 128, "state_size": 16, "num_hidden_layers": 2, "time_step_rank": 32}
    return MambaForCausalLM(MambaConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2))


def test_a_convolution_is_no_expert():
    model = mamba()
    assert any(parameter.ndim == 3 for parameter in model.parameters())
    assert list(fused_experts(model)) == []


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
def test_experts_are_found(kind):
    found = list(fused_experts(make_model(kind)))
    assert len(found) == 4 and all(".experts." in name for name in found)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_are_called_may_be_packed(kind):
    assert uncalled_layers(make_model(kind).config) == []


def test_asking_for_a_weights_type_is_no_use_of_it(monkeypatch):
    usual = LlamaMLP.forward

    def asking(self, states):
        return usual(self, states.to(self.down_proj.weight.dtype).to(self.up_proj.weight.device))

    monkeypatch.setattr(LlamaMLP, "forward", asking)
    assert uncalled_layers(make_model("llama").config) == []


@pytest.mark.parametrize(
    "use", [lambda layer, x: x @ layer.weight.T, lambda layer, x: torch.nn.functional.linear(x, layer.weight)]
)
def test_the_use_of_a_weight_is_found(monkeypatch, use):
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, states: self.down_proj(use(self.up_proj, states)))
    assert uncalled_layers(make_model("llama").config) == ["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize("name", ["bnb-int8", "bnb-nf4", "rtn-int4-g32", "gptq-int4-g32", "awq-int4-g32"])
def test_a_model_that_reads_a_layers_weight_itself_is_refused_before_any_work(name):
    """Packed, such a layer has no weight to be read: transformers ends in a traceback when it is loaded or run."""
    model = empty_model_of(mamba().config)
    with pytest.raises(RequestError, match=rf"{name} cannot hold this model: .*layers\.0\.mixer\.dt_proj itself"):
        FORMATS.get(name).value().check(model)
    FORMATS.get("bf16").value().check(model)
