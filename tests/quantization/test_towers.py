"""Models that also read images: towers are left as they are, whatever their sizes, and are taken for no decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from text_models import _tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Gemma3Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from hf_unlearn.errors import RequestError
from hf_unlearn.models.decoder import decoder_stack, linear_layers, text_model, tower_layers
from hf_unlearn.models.loading import empty_model, load_model
from hf_unlearn.quantization import FORMATS, export_format

TEXT = {
    **{"vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
# As many layers as the text model, of sizes that no group divides.
VISION = {
    **{"hidden_size": 36, "intermediate_size": 100, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}


def gemma() -> Gemma3Config:
    tokens = {"image_token_index": 300, "boi_token_index": 301, "eoi_token_index": 302}
    return Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4, **tokens)


def llava() -> LlavaConfig:
    return LlavaConfig(
        text_config=LlamaConfig(**TEXT), vision_config=CLIPVisionConfig(**VISION), image_token_index=300
    )


def made(config) -> torch.nn.Module:
    torch.manual_seed(0)
    # Not a class that this package loads, but one with a projector of linear layers.
    return (LlavaForConditionalGeneration if isinstance(config, LlavaConfig) else AutoModelForCausalLM.from_config)(
        config
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    made(gemma()).bfloat16().save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("config", [gemma, llava])
def test_the_text_model_is_told_from_its_towers(config):
    with torch.device("meta"):
        model = made(config())
    stack = decoder_stack(model)
    assert len(stack.layers) == 2 and stack.layers[0].mlp.down_proj.out_features == TEXT["hidden_size"]
    inside = linear_layers(model)
    assert len(inside) == 14 and all("language_model" in name for name in inside)
    outside = tower_layers(model)
    assert outside and not any("language_model" in name or name == "lm_head" for name in outside)
    assert (config is gemma) == (not any("projector" in name for name in outside))


def test_a_model_of_text_alone_is_all_text():
    with torch.device("meta"):
        model = made(LlamaConfig(**TEXT))
    assert text_model(model) is model and tower_layers(model) == []
    assert len(linear_layers(model)) == 14


@pytest.mark.parametrize("name", ["bf16", "bnb-int8", "bnb-nf4", "rtn-int4-g32", "torchao-int8", "noise-nf4-1"])
def test_towers_are_written_as_they_are(name, source, tmp_path):
    """The export also loads the folder again and compares the logits."""
    info = export_format(name, source, tmp_path / "out")
    assert info.quantized_share == 1.0 if name == "bf16" else 0.6 < info.quantized_share < 0.8
    before, after = (load_model(folder).state_dict() for folder in (source, tmp_path / "out"))
    towers = [key for key in before if "language_model" not in key and "lm_head" not in key]
    assert len(towers) > 30
    for key in towers:
        assert torch.equal(before[key], after[key]), key


@pytest.mark.parametrize("name", ["gptq-int4-g32", "awq-int4-g32", "gguf-q4_0"])
def test_formats_that_cannot_leave_towers_alone_refuse_before_any_work(name, source):
    model = empty_model(source)
    with pytest.raises(RequestError, match=rf"{name} cannot (hold this model: its files|be made from the gemma3 fam)"):
        FORMATS.get(name).value().check(model)


def test_a_reloaded_config_still_spares_the_towers(source, tmp_path):
    export_format("bnb-nf4", source, tmp_path / "out")
    spared = AutoConfig.from_pretrained(tmp_path / "out").quantization_config["llm_int8_skip_modules"]
    assert set(tower_layers(empty_model(source))) <= set(spared) and "lm_head" in spared
