from __future__ import annotations

import importlib.metadata
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from hf_unlearn.errors import EnvironmentFailure, MissingExtraError, RequestError
from hf_unlearn.quantization import FORMATS, export_format
from hf_unlearn.quantization.base import Format

ALL = ["bf16", "bnb-fp4", "bnb-int8", "bnb-nf4", "rtn-int4-g128", "rtn-int4-g32"]
NF4_LEVELS = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]
FP4_LEVELS = sorted(sign * level / 12 for level in (0, 0.0625, 2, 3, 4, 6, 8, 12) for sign in (-1, 1))


def logits(model) -> torch.Tensor:
    ids = torch.arange(48).view(2, 24)
    with torch.inference_mode():
        return model(input_ids=ids).logits.float()


def nearest(values: torch.Tensor, levels: list[float]) -> torch.Tensor:
    grid = torch.tensor(levels, dtype=torch.float64)
    return grid[(values.double().unsqueeze(-1) - grid).abs().argmin(-1)]


def by_hand(weight: torch.Tensor, name: str, stored: torch.dtype) -> torch.Tensor:
    """The format's weights from its published definition, in float64."""
    if name == "bf16":
        return weight.double()
    if name == "bnb-int8":
        # LLM.int8() starts from half precision.
        largest = weight.half().double().abs().amax(-1, keepdim=True)
        return (weight.half().double() / largest * 127).round() * largest / 127
    if name.startswith("bnb"):
        blocks = weight.double().reshape(-1, 64)
        largest = blocks.abs().amax(-1, keepdim=True)
        levels = NF4_LEVELS if name == "bnb-nf4" else FP4_LEVELS
        return (nearest(blocks / largest, levels) * largest).reshape(weight.shape).to(stored).double()
    # In float32, because a group's greatest weight stands exactly between two steps (7.5).
    groups = weight.numpy().reshape(weight.shape[0], -1, int(name.removeprefix("rtn-int4-g")))
    scale = torch.from_numpy(np.abs(groups).max(-1, keepdims=True) / np.float32(7.5)).to(stored).float().numpy()
    return torch.from_numpy((np.clip(np.rint(groups / scale), -8, 7) * scale).reshape(weight.shape)).double()


def test_registry_lists_every_format_with_a_summary():
    assert FORMATS.names() == ALL
    for entry in FORMATS.entries():
        assert entry.summary and entry.value.name == entry.name and issubclass(entry.value, Format)


@pytest.mark.parametrize("source_name", ["plain", "odd"])
@pytest.mark.parametrize("name", ALL)
def test_stock_from_pretrained_gives_the_weights_of_the_definition(name, source_name, exported, request):
    source = request.getfixturevalue(source_name)
    target, info = exported(name, source)
    original = AutoModelForCausalLM.from_pretrained(source)
    expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    changed = 0
    with torch.no_grad():
        for key, module in expected.named_modules():
            if isinstance(module, torch.nn.Linear) and key != "lm_head":
                module.weight.copy_(by_hand(module.weight, name, original.dtype).float())
                changed += module.weight.numel()
        if name == "bf16":
            for parameter in expected.parameters():
                parameter.copy_(parameter.bfloat16())
    stock = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    want, got = logits(expected), logits(stock)
    error = ((got - want).norm() / want.norm()).item()
    # The int8 product also rounds activations, the 4-bit kernel computes in bfloat16.
    assert error < {"bnb-int8": 0.03, "bnb-nf4": 0.02, "bnb-fp4": 0.02}.get(name, 1e-5)
    if name != "bf16":
        untouched = logits(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32))
        distance = ((want - untouched).norm() / untouched.norm()).item()
        # What int8 does to weights is no more than what it does to activations: see the test of its stored weights.
        assert name == "bnb-int8" or error < distance / 2, "this test must be able to tell the format from the source"
        share = changed / sum(parameter.numel() for parameter in expected.parameters())
        assert info.quantized_share == pytest.approx(share)
    assert info.reload_error <= info.tolerance
    assert info.bytes == (target / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_quantized_keeps_the_source_bit_for_bit(name, odd, exported):
    target, _ = exported(name, odd)
    before, after = load_file(odd / "model.safetensors"), load_file(target / "model.safetensors")
    kept = [key for key in before if key.endswith(("bias", "norm.weight", "layernorm.weight", "embed_tokens.weight"))]
    assert len(kept) == 20
    for key in kept:
        assert torch.equal(before[key], after[key]), key
    assert "lm_head.weight" not in after, "tied embeddings stay tied"
    model = AutoModelForCausalLM.from_pretrained(target)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_four_bit_and_rtn_quantize_the_same_layers(plain, exported):
    assert len({exported(name, plain)[1].quantized_share for name in ALL if "4" in name}) == 1
    packed = load_file(exported("rtn-int4-g32", plain)[0] / "model.safetensors")
    four_bit = load_file(exported("bnb-nf4", plain)[0] / "model.safetensors")
    rtn_layers = {key.removesuffix(".weight_packed") for key in packed if key.endswith(".weight_packed")}
    bnb_layers = {key.removesuffix(".weight.absmax") for key in four_bit if key.endswith(".weight.absmax")}
    assert rtn_layers == bnb_layers and len(rtn_layers) == 14 and "lm_head" not in rtn_layers


@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-fp4"])
def test_four_bit_saves_block_maxima_without_double_quantization(name, plain, exported):
    target, _ = exported(name, plain)
    tensors = load_file(target / "model.safetensors")
    source = load_file(plain / "model.safetensors")
    key = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(tensors[key + ".absmax"], source[key].reshape(-1, 64).abs().amax(-1))
    config = json.loads((target / "config.json").read_text())["quantization_config"]
    assert config["bnb_4bit_quant_type"] == name[-3:] and config["bnb_4bit_use_double_quant"] is False


def test_int8_stores_rows_in_steps_of_their_greatest_weight(plain, exported):
    target, _ = exported("bnb-int8", plain)
    tensors, source = load_file(target / "model.safetensors"), load_file(plain / "model.safetensors")
    for key in ("model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        largest = source[key].half().float().abs().amax(-1, keepdim=True)
        assert torch.equal(tensors[key.replace("weight", "SCB")], largest.flatten())
        stored = tensors[key].float() * largest / 127
        assert tensors[key].dtype == torch.int8
        assert ((stored - source[key].half().float()).abs() <= 0.5001 * largest / 127).all()


def test_tokenizer_is_copied_and_training_leftovers_are_not(plain, exported):
    target, _ = exported("bf16", plain)
    assert (target / "tokenizer.json").read_bytes() == (plain / "tokenizer.json").read_bytes()
    assert not (target / "optimizer.pt").exists()


@pytest.mark.parametrize("name", ["bnb-nf4", "rtn-int4-g32"])
def test_a_file_that_does_not_give_back_the_weights_is_not_kept(name, plain, tmp_path):
    """A writer that damages scales after the library saved them, as a forward before saving does to bitsandbytes."""

    class Damaging(FORMATS.get(name).value):
        def write(self, source, target):
            written = super().write(source, target)
            file = target / "model.safetensors"
            tensors = load_file(file)
            for key in tensors:
                if key.endswith(("absmax", "weight_scale")):
                    tensors[key] = tensors[key].flatten().roll(1).reshape(tensors[key].shape).contiguous()
            save_file(tensors, file, metadata={"format": "pt"})
            return written

    with pytest.raises(EnvironmentFailure, match="does not load as the weights that were written"):
        Damaging().export(plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_quantized_source_is_refused(plain, exported, tmp_path):
    quantized, _ = exported("bnb-nf4", plain)
    for name in ALL:
        with pytest.raises(RequestError, match=r"already quantized \(bitsandbytes\)"):
            export_format(name, quantized, tmp_path / "twice")
        assert not (tmp_path / "twice").exists()


def test_group_that_does_not_divide_is_refused_by_layer_name(make_llama, tmp_path):
    source = make_llama(tmp_path / "narrow", hidden=64, inner=128)
    with pytest.raises(RequestError, match=r"multiples of 128, but model.layers.0.self_attn.q_proj has 64"):
        export_format("rtn-int4-g128", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export_format("rtn-int4-g32", source, tmp_path / "out").group_size == 32


def test_sizes_the_cpu_kernel_cannot_run_are_refused(make_llama, tmp_path):
    from bitsandbytes.functional import has_avx512bf16

    source = make_llama(tmp_path / "odd-sizes", hidden=64, inner=96)
    if not has_avx512bf16() or torch.cuda.is_available():
        assert export_format("bnb-nf4", source, tmp_path / "out").reload_error < 0.08
        return
    with pytest.raises(RequestError, match=r"down_proj has 96 and 64"):
        export_format("bnb-nf4", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_model_without_linear_layers_is_refused_by_rtn(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=64, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(RequestError, match="no linear layer besides its output head"):
        export_format("rtn-int4-g32", tmp_path / "gpt2", tmp_path / "out")
    assert export_format("bnb-nf4", tmp_path / "gpt2", tmp_path / "out").reload_error < 0.08


@pytest.mark.parametrize("name, package", [("bnb-int8", "bitsandbytes"), ("rtn-int4-g32", "compressed-tensors")])
def test_missing_library_names_the_extra(name, package, plain, tmp_path, monkeypatch):
    installed = importlib.metadata.version

    def without(wanted: str) -> str:
        if wanted == package:
            raise importlib.metadata.PackageNotFoundError(wanted)
        return installed(wanted)

    monkeypatch.setattr(importlib.metadata, "version", without)
    with pytest.raises(MissingExtraError, match=rf"{package}.*hf_unlearn\[quantization\]"):
        export_format(name, plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_without_a_model_and_full_target_are_refused(plain, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="has no config"):
        export_format("bf16", tmp_path / "empty", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("kept")
    with pytest.raises(RequestError, match="is there already"):
        export_format("bf16", plain, tmp_path / "full")
    assert (tmp_path / "full" / "precious.txt").read_text() == "kept"


def test_source_with_nan_weights_is_refused(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "nan")
    tensors = load_file(tmp_path / "nan" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    for name in ("bf16", "bnb-nf4", "rtn-int4-g32"):
        with pytest.raises(RequestError, match="not finite"):
            export_format(name, tmp_path / "nan", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_source_that_lacks_weights_is_refused(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "holes")
    tensors = load_file(tmp_path / "holes" / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "holes" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"lacks weights.*up_proj"):
        export_format("bnb-nf4", tmp_path / "holes", tmp_path / "out")
