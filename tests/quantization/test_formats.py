from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from hf_unlearn.cli.listing import entries_of
from hf_unlearn.errors import EnvironmentFailure, MissingExtraError, RequestError
from hf_unlearn.quantization import FORMATS, export_format
from hf_unlearn.quantization.base import Format
from hf_unlearn.runtime.environment import explain

PLAIN = ["bf16", "fp16"]
FOUR_BIT = ["bnb-fp4", "bnb-fp4-dq", "bnb-nf4", "bnb-nf4-dq"]
RTN = [
    *("rtn-int8-channel", "rtn-int8-g128", "rtn-int4-channel", "rtn-int4-g128", "rtn-int4-g32"),
    *("rtn-int3-channel", "rtn-int3-g128", "rtn-int3-g32", "rtn-int2-channel", "rtn-int2-g128", "rtn-int2-g32"),
]
COMPRESSED = ["ct-fp8", "ct-int8"]
TORCHAO = ["torchao-int8", "torchao-int8-dynamic"]
# GGUF, GPTQ and AWQ have tests of their own.
ALL = [*PLAIN, "bnb-int8", *FOUR_BIT, *RTN, *COMPRESSED, *TORCHAO]
# One of each way of writing, where more would only take longer.
FORMER = ["bf16", "bnb-fp4", "bnb-int8", "bnb-nf4", "rtn-int4-g128", "ct-int8"]
EACH_WAY = ["fp16", "bnb-nf4-dq", "rtn-int3-g32", "ct-fp8", "torchao-int8"]
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


def info_dtype(name: str) -> torch.dtype:
    return torch.float16 if name == "fp16" else torch.bfloat16


def logits(model) -> torch.Tensor:
    ids = torch.arange(48).view(2, 24)
    with torch.inference_mode():
        return model(input_ids=ids).logits.float()


def nearest(values: torch.Tensor, levels: list[float]) -> torch.Tensor:
    grid = torch.tensor(levels, dtype=torch.float64)
    return grid[(values.double().unsqueeze(-1) - grid).abs().argmin(-1)]


def by_hand(weight: torch.Tensor, name: str, stored: torch.dtype) -> torch.Tensor:
    """The format's weights from its published definition, in float64."""
    if name in PLAIN:
        return weight.double()
    if name.startswith("ct-") or name.startswith("torchao"):
        return rows_by_hand(weight, name, stored)
    if name == "bnb-int8":
        # LLM.int8() starts from half precision.
        largest = weight.half().double().abs().amax(-1, keepdim=True)
        return (weight.half().double() / largest * 127).round() * largest / 127
    if name.startswith("bnb"):
        blocks = weight.double().reshape(-1, 64)
        largest = blocks.abs().amax(-1, keepdim=True)
        levels = NF4_LEVELS if "nf4" in name else FP4_LEVELS
        kept = twice_quantized(largest) if name.endswith("-dq") else largest
        return (nearest(blocks / largest, levels) * kept).reshape(weight.shape).to(stored).double()
    # In float32, because a group's greatest weight stands exactly between two steps (7.5).
    size = name.partition("-g")[2]
    half = 2 ** (int(name.removeprefix("rtn-int")[0]) - 1)
    groups = weight.numpy().reshape(weight.shape[0], -1, int(size) if size else weight.shape[1])
    largest = np.abs(groups).max(-1, keepdims=True)
    scale = torch.from_numpy(largest / np.float32(half - 0.5)).to(stored).float().numpy()
    return torch.from_numpy((np.clip(np.rint(groups / scale), -half, half - 1) * scale).reshape(weight.shape)).double()


def rows_by_hand(weight: torch.Tensor, name: str, stored: torch.dtype) -> torch.Tensor:
    """One scale per row: 8-bit floats that reach to 448, or integers that reach to 127.5."""
    largest = weight.float().abs().amax(-1, keepdim=True)
    if "fp8" in name:
        scale = (largest / 448).to(stored).float() if name == "ct-fp8" else largest / 448
        return ((weight.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale).double()
    scale = (largest / 127.5).to(stored).float()
    if name.startswith("torchao"):  # a product with the reciprocal decides ties another way than a quotient
        return ((weight.float() * (1 / scale)).round().clamp(-128, 127) * scale).double()
    return ((weight.float() / scale).round().clamp(-128, 127) * scale).double()


def twice_quantized(largest: torch.Tensor) -> torch.Tensor:
    """Block maxima less their mean, in 8 bits: 256 share a scale, and each goes to the nearest of 256 levels."""
    from bitsandbytes.functional import create_dynamic_map

    flat = largest.flatten()
    mean = flat.mean()
    parts = torch.nn.functional.pad(flat - mean, (0, -flat.numel() % 256)).view(-1, 256)
    scale = parts.abs().amax(-1, keepdim=True)
    kept = nearest(parts / scale, create_dynamic_map().double().tolist()) * scale
    return (kept.flatten()[: flat.numel()] + mean).view_as(largest)


def rounded_inputs(values: torch.Tensor, name: str) -> torch.Tensor:
    """What a layer of an 8-bit format multiplies with."""
    largest = values.abs().amax(-1, keepdim=True)
    if "fp8" in name:
        return (values / (largest / 448)).to(torch.float8_e4m3fn).float() * (largest / 448)
    scale = largest / 127.5
    if name.startswith("torchao"):
        return (values * (1 / scale)).round().clamp(-128, 127) * scale
    return (values / scale).round().clamp(-128, 127) * scale


def test_registry_lists_every_format_with_a_summary():
    assert set(ALL) <= set(FORMATS.names())
    for entry in FORMATS.entries():
        assert entry.summary and entry.value.name == entry.name and issubclass(entry.value, Format)
        assert entry.value.cpu and 2 <= entry.value.bits <= 32


def test_list_says_what_is_installed_what_it_needs_and_whether_a_cpu_makes_it():
    entries = {entry["name"]: entry for entry in entries_of("formats")}
    nf4, plain_file, mixed = entries["bnb-nf4"], entries["bf16"], entries["gguf-q4_k_m"]
    assert (nf4["installed"], nf4["extra"], nf4["cpu"], nf4["bits"]) == (True, "quantization", True, 4)
    assert (plain_file["extra"], plain_file["installed"]) == ("", True)
    assert mixed["extra"] == "llama-cpp" and (mixed["installed"] or "hf_unlearn[llama-cpp]" in mixed["status"])
    assert entries["ct-fp8"]["aliases"] == ["fp8"]


@pytest.mark.parametrize(
    "short, full",
    [
        ("rtn-int8", "rtn-int8-channel"),
        ("rtn-int4", "rtn-int4-g128"),
        ("rtn-int3", "rtn-int3-g128"),
        ("rtn-int2", "rtn-int2-g128"),
        ("fp8", "ct-fp8"),
        ("int8", "ct-int8"),
    ],
)
def test_names_people_use_stand_for_one_format(short, full):
    assert FORMATS.get(short).name == full


@pytest.mark.parametrize(
    "name, source_name", [*((name, "plain") for name in ALL), *((name, "odd") for name in (*EACH_WAY, *FORMER))]
)
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
                if name in ("ct-fp8", "ct-int8", "torchao-int8-dynamic"):
                    module.register_forward_pre_hook(lambda _, inputs: (rounded_inputs(inputs[0], name),))
        if name in PLAIN:
            for parameter in expected.parameters():
                parameter.copy_(parameter.to(info_dtype(name)))
    stock = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    want, got = logits(expected), logits(stock)
    error = ((got - want).norm() / want.norm()).item()
    # The int8 product also rounds activations, the 4-bit kernel computes in bfloat16. torchao's sums have
    # another order, and a token's greatest value stands between two steps, so that the last bit decides.
    loose = {"bnb-int8": 0.03, "torchao-int8-dynamic": 0.01, **dict.fromkeys(FOUR_BIT, 0.02)}
    assert error < loose.get(name, 1e-5)
    if name not in PLAIN:
        untouched = logits(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32))
        distance = ((want - untouched).norm() / untouched.norm()).item()
        # What int8 does to weights is no more than what it does to activations: see the tests of stored weights.
        near = ("bnb-int8", "torchao-int8-dynamic")
        assert name in near or error < distance / 2, "this test must be able to tell the format from the source"
        share = changed / sum(parameter.numel() for parameter in expected.parameters())
        assert info.quantized_share == pytest.approx(share)
    assert info.reload_error <= info.tolerance
    assert info.bytes == (target / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", [*EACH_WAY, *FORMER])
def test_what_is_not_quantized_keeps_the_source_bit_for_bit(name, odd, exported):
    target, _ = exported(name, odd)
    before, after = load_file(odd / "model.safetensors"), load_file(target / "model.safetensors")
    kept = [key for key in before if key.endswith(("bias", "norm.weight", "layernorm.weight", "embed_tokens.weight"))]
    assert len(kept) == 20
    for key in kept:
        assert name == "fp16" or torch.equal(before[key], after[key]), key
        assert torch.equal(before[key].to(after[key].dtype), after[key]), key
    assert "lm_head.weight" not in after, "tied embeddings stay tied"
    model = AutoModelForCausalLM.from_pretrained(target)
    assert model.dtype == (torch.float16 if name == "fp16" else torch.bfloat16)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_four_bit_and_rtn_quantize_the_same_layers(plain, exported):
    quantizing = [name for name in ALL if name not in PLAIN]
    assert len({exported(name, plain)[1].quantized_share for name in quantizing}) == 1
    packed = load_file(exported("rtn-int4-g32", plain)[0] / "model.safetensors")
    four_bit = load_file(exported("bnb-nf4", plain)[0] / "model.safetensors")
    rtn_layers = {key.removesuffix(".weight_packed") for key in packed if key.endswith(".weight_packed")}
    bnb_layers = {key.removesuffix(".weight.absmax") for key in four_bit if key.endswith(".weight.absmax")}
    assert rtn_layers == bnb_layers and len(rtn_layers) == 14 and "lm_head" not in rtn_layers


@pytest.mark.parametrize("name", RTN)
def test_bits_and_groups_stand_in_the_config_and_take_their_room(name, plain, exported):
    target, info = exported(name, plain)
    stored = json.loads((target / "config.json").read_text())["quantization_config"]
    grid = stored["config_groups"]["group_0"]["weights"]
    assert (grid["num_bits"], grid["group_size"]) == (info.bits, info.group_size)
    assert grid["strategy"] == ("group" if info.group_size else "channel") and stored["ignore"] == ["lm_head"]
    tensors = load_file(target / "model.safetensors")
    key = "model.layers.1.mlp.down_proj.weight"
    codes, scales = tensors[key + "_packed"], tensors[key + "_scale"]
    assert codes.numel() * 32 == 128 * 256 * info.bits
    assert list(scales.shape) == [128, 256 // info.group_size if info.group_size else 1]


@pytest.mark.parametrize("name", RTN)
def test_packed_codes_are_those_of_the_grid(name, plain, exported):
    """Unpacked here bit by bit, without the library."""
    target, info = exported(name, plain)
    tensors, source = load_file(target / "model.safetensors"), load_file(plain / "model.safetensors")
    key = "model.layers.0.self_attn.v_proj.weight"
    weight, scales = source[key], tensors[key + "_scale"]
    words = tensors[key + "_packed"].numpy().view(np.uint32)
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little").reshape(weight.shape[0], -1, info.bits)
    codes = (bits * 2 ** np.arange(info.bits)).sum(-1) - 2 ** (info.bits - 1)
    exact = weight.double() / scales.double().repeat_interleave(weight.shape[1] // scales.shape[1], dim=1)
    half = 2 ** (info.bits - 1)
    best = exact.round().clamp(-half, half - 1).numpy()
    # A group's greatest weight stands between two steps, up to rounding.
    clear = (exact - exact.floor() - 0.5).abs().numpy() > 1e-4
    assert clear.mean() > 0.9 and (codes == best)[clear].all()
    assert len(np.unique(codes)) > half


@pytest.mark.parametrize("name", ["torchao-int8", "ct-int8", "ct-fp8"])
def test_eight_bit_rows_hold_the_codes_of_the_definition(name, plain, exported):
    target, _ = exported(name, plain)
    tensors, source = load_file(target / "model.safetensors"), load_file(plain / "model.safetensors")
    key = "model.layers.0.self_attn.v_proj.weight"
    parts = ("_qdata", "_scale") if name.startswith("torchao") else ("", "_scale")
    stem = key.replace("weight", "_weight") if name.startswith("torchao") else key
    codes, scales = tensors[stem + parts[0]], tensors[stem + parts[1]].double()
    reach = 448 if "fp8" in name else 127.5
    largest = source[key].double().abs().amax(-1, keepdim=True)
    assert torch.allclose(scales, largest / reach, rtol=1e-6)
    exact = source[key].double() / scales
    if "fp8" in name:
        levels = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
        best = nearest(exact.clamp(-448, 448), levels[levels.isfinite()].tolist())
        # Weights between two levels may go to either.
        assert ((codes.double() - exact).abs() <= (best - exact).abs() * 1.0001 + 1e-9).all()
    else:
        clear = (exact - exact.floor() - 0.5).abs() > 1e-4
        assert (codes.double() == exact.round().clamp(-128, 127))[clear].all() and clear.double().mean() > 0.9


def test_sizes_on_disk_are_those_of_the_bits(plain, exported):
    """Whatever a format stores beside codes is small, so files are ordered by their bits."""
    weights = 2 * (128 * 128 + 2 * 64 * 128 + 128 * 128 + 3 * 128 * 256)
    rest = exported("bf16", plain)[1].bytes - weights * 2
    rest_float32 = rest * 2
    for name in ALL:
        info = exported(name, plain)[1]
        kept = rest if name in PLAIN else rest_float32
        scales = 0 if name in PLAIN else weights * 4 / (info.group_size or 128)
        least, most = weights * info.bits / 8, weights * info.bits / 8 + 1.5 * scales + kept + 40_000
        assert least < info.bytes < most, name


@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-fp4"])
def test_four_bit_saves_block_maxima_without_double_quantization(name, plain, exported):
    target, _ = exported(name, plain)
    tensors = load_file(target / "model.safetensors")
    source = load_file(plain / "model.safetensors")
    key = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(tensors[key + ".absmax"], source[key].reshape(-1, 64).abs().amax(-1))
    config = json.loads((target / "config.json").read_text())["quantization_config"]
    assert config["bnb_4bit_quant_type"] == name[-3:] and config["bnb_4bit_use_double_quant"] is False


def test_double_quantization_keeps_maxima_in_eight_bits(plain, exported):
    tensors = load_file(exported("bnb-nf4-dq", plain)[0] / "model.safetensors")
    source = load_file(plain / "model.safetensors")
    key = "model.layers.1.mlp.down_proj.weight"
    largest = source[key].reshape(-1, 64).abs().amax(-1).double()
    assert tensors[key + ".absmax"].dtype == torch.uint8 and tensors[key + ".absmax"].numel() == largest.numel()
    levels = tensors[key + ".nested_quant_map"].double()[tensors[key + ".absmax"].long()]
    shared = tensors[key + ".nested_absmax"].double().repeat_interleave(256)[: largest.numel()]
    gap = (levels * shared + largest.mean() - twice_quantized(largest)).abs()
    # A maximum that stands between two levels may go to either.
    assert (gap < 1e-7).double().mean() > 0.99 and gap.max() < 1e-3


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
    for name in (*EACH_WAY, "bf16", "gguf-q8_0"):
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


@pytest.mark.parametrize(
    "name, package, extra",
    [
        ("bnb-int8", "bitsandbytes", "quantization"),
        ("rtn-int4-g32", "compressed-tensors", "quantization"),
        ("torchao-int8", "torchao", "torchao"),
        ("gguf-q4_0", "gguf", "gguf"),
        ("gguf-q4_k_m", "llama-cpp-python", "llama-cpp"),
        ("gguf-q4_k_m", "gguf", "llama-cpp"),
    ],
)
def test_missing_library_names_the_extra(name, package, extra, plain, tmp_path, monkeypatch):
    installed = importlib.metadata.version

    def without(wanted: str) -> str:
        if wanted == package:
            raise importlib.metadata.PackageNotFoundError(wanted)
        return installed(wanted)

    monkeypatch.setattr(importlib.metadata, "version", without)
    with pytest.raises(MissingExtraError, match=rf"{package}.*hf_unlearn\[{extra}\]"):
        export_format(name, plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, package", [("torchao-int8", "torchao"), ("rtn-int3-g32", "compressed-tensors")])
def test_library_that_is_too_old_names_what_works(name, package, plain, tmp_path, monkeypatch):
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda wanted: "0.17.0" if wanted == package else installed(wanted)
    )
    with pytest.raises(EnvironmentFailure, match=rf"{name} needs {package} >=0\.\d+, and 0\.17\.0 is installed: run"):
        export_format(name, plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weight_beyond_float16_is_refused(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "large")
    tensors = load_file(tmp_path / "large" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(tensors, tmp_path / "large" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"up_proj.weight has a weight beyond 65504.*use bf16"):
        export_format("fp16", tmp_path / "large", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EACH_WAY)
def test_full_disk_leaves_nothing_behind(name, plain, tmp_path, file_limit):
    with pytest.raises(Exception) as caught, file_limit(50_000):
        export_format(name, plain, tmp_path / "out")
    assert explain(caught.value) is not None, "the machine's refusal must be recognisable as one"
    assert not (tmp_path / "out").exists()


def test_stock_from_pretrained_in_a_fresh_process(plain, exported, tmp_path):
    """Without this package: what is published must load where nobody has heard of it."""
    folders = {name: str(exported(name, plain)[0]) for name in EACH_WAY}
    (tmp_path / "load.py").write_text(FRESH, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "load.py"), json.dumps(folders)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["packages"] == [] and set(found["logits"]) == set(EACH_WAY)
    for name in EACH_WAY:
        here = logits(AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32))
        assert torch.allclose(torch.tensor(found["logits"][name]), here[0, -1, :8], atol=1e-3), name


FRESH = """
import json, sys, torch
from transformers import AutoModelForCausalLM
found = {}
for name, folder in json.loads(sys.argv[1]).items():
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        found[name] = model(input_ids=torch.arange(48).view(2, 24)).logits[0, -1, :8].float().tolist()
print()
print(json.dumps({"packages": [name for name in sys.modules if name == "hf_unlearn"], "logits": found}))
"""


def test_folder_without_a_model_and_full_target_are_refused(plain, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="has no config"):
        export_format("bf16", tmp_path / "empty", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("kept")
    with pytest.raises(RequestError, match="already exists"):
        export_format("bf16", plain, tmp_path / "full")
    assert (tmp_path / "full" / "precious.txt").read_text() == "kept"


def test_source_with_nan_weights_is_refused(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "nan")
    tensors = load_file(tmp_path / "nan" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    for name in EACH_WAY:
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
