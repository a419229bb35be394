from __future__ import annotations

import json
import shutil
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from gguf_models import (
    FAMILIES,
    byte_level_tokenizer,
    change_config,
    save_family,
    sentencepiece_tokenizer,
    splitting_rules,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.hub.files import is_model_file, is_weight_file
from hf_unlearn.models.loading import load_model
from hf_unlearn.quantization import FORMATS, export_format
from hf_unlearn.quantization.gguf_file import read_vocabulary
from hf_unlearn.runtime.environment import explain

SIMPLE = {"gguf-q8_0": "model-Q8_0.gguf", "gguf-q4_0": "model-Q4_0.gguf"}


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """Family to a folder with a model of it; those of Llama 3 in bfloat16."""
    root = tmp_path_factory.mktemp("families")
    dtypes = {"llama3": torch.bfloat16}
    return {name: save_family(root / name, name, dtype=dtypes.get(name, torch.float32)) for name in FAMILIES}


def logits(model) -> torch.Tensor:
    ids = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return model(input_ids=ids).logits.float()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def q8_0_by_hand(weight: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: ``scale = max|w| / 127``, kept in float16; codes from the scale before that, ties away from 0."""
    blocks = weight.float().reshape(-1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    exact = blocks * (1 / scale)
    codes = exact.sign() * (exact.abs() + 0.5).floor()
    return (codes.double() * scale.half().double()).reshape(weight.shape)


def q4_0_by_hand(weight: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: the weight of largest magnitude is -8 steps, and codes are cut, not rounded, after adding 8.5."""
    blocks = weight.float().reshape(-1, 32)
    scale = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -8
    codes = (blocks * (1 / scale) + 8.5).floor().clamp(0, 15) - 8
    return (codes.double() * scale.half().double()).reshape(weight.shape)


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_reader_gives_the_weights_of_the_definition(name, family, families, exported):
    source = families[family]
    target, info = exported(name, source)
    by_hand = q8_0_by_hand if name == "gguf-q8_0" else q4_0_by_hand
    expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    head = expected.get_output_embeddings().weight
    quantized = 0
    with torch.no_grad():
        for parameter in expected.parameters():
            if parameter.ndim == 2:
                parameter.copy_(q8_0_by_hand(parameter) if parameter is head else by_hand(parameter))
                quantized += parameter.numel()
    arguments = {"gguf_file": SIMPLE[name], "dtype": torch.float32}
    if family != "llama3":  # of which the stock reader drops a setting: see the next test
        stock = AutoModelForCausalLM.from_pretrained(target, **arguments)
        assert distance(logits(stock), logits(expected)) < 1e-4
    assert distance(logits(load_model(target)), logits(expected)) < 1e-4
    untouched = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    assert distance(logits(expected), logits(untouched)) > 5e-3, "this test must tell the format from its source"
    assert info.quantized_share == pytest.approx(quantized / sum(p.numel() for p in expected.parameters()))
    assert info.reload_error <= 1e-5 and info.bytes == (target / SIMPLE[name]).stat().st_size


def test_rotary_scaling_of_llama_3_is_in_the_file_and_transformers_drops_it(families, exported):
    """Why a GGUF folder keeps its config.json: the stock reader makes one without the scaling."""
    target, _ = exported("gguf-q8_0", families["llama3"])
    reader = gguf.GGUFReader(target / SIMPLE["gguf-q8_0"])
    stored = next(tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    model = AutoModelForCausalLM.from_pretrained(families["llama3"], dtype=torch.float32)
    plain = 1.0 / 10000.0 ** (np.arange(0, 64, 2) / 64)
    assert np.allclose(plain / stored, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    assert stored.max() == pytest.approx(8) and stored.min() == 1
    stock = AutoModelForCausalLM.from_pretrained(target, gguf_file=SIMPLE["gguf-q8_0"], dtype=torch.float32)
    assert distance(logits(stock), logits(load_model(target))) > 1e-2


@pytest.mark.parametrize("name", SIMPLE)
def test_file_holds_blocks_of_the_type_and_keeps_vectors(name, families, exported):
    target, info = exported(name, families["llama"])
    reader = gguf.GGUFReader(target / SIMPLE[name])
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    wanted = name.removeprefix("gguf-").upper()
    assert types.pop("output.weight") == "Q8_0"
    assert {types[key] for key in types if "norm" not in key} == {wanted}
    assert {types[key] for key in types if "norm" in key} == {"F32"}
    norm = next(tensor.data for tensor in reader.tensors if tensor.name == "output_norm.weight")
    source = load_file(families["llama"] / "model.safetensors")
    assert np.array_equal(norm, source["model.norm.weight"].numpy())
    size = {"gguf-q8_0": 34, "gguf-q4_0": 18}[name]
    matrices = [tensor for tensor in reader.tensors if tensor.tensor_type.name == wanted]
    assert all(tensor.n_bytes == tensor.n_elements // 32 * size for tensor in matrices)
    assert (
        sum(tensor.n_bytes for tensor in reader.tensors) < info.bytes < sum(t.n_bytes for t in reader.tensors) + 20_000
    )
    assert info.group_size == 32 and info.bits == int(wanted[1])


def test_folder_holds_what_may_be_published_and_nothing_else(families, exported):
    target, _ = exported("gguf-q4_0", families["qwen2"])
    names = sorted(item.name for item in target.iterdir())
    assert all(is_model_file(name) for name in names), names
    assert [name for name in names if is_weight_file(name)] == ["model-Q4_0.gguf"]
    text = (target / "model-Q4_0.gguf").read_bytes()
    assert str(families["qwen2"].parent).encode() not in text, "no path of the machine that made it"


@pytest.mark.parametrize("rule", splitting_rules())
def test_tokenizer_in_the_file_gives_the_same_tokens(rule, families, exported, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(families["llama"], source)
    tokenizer = byte_level_tokenizer(splitting_rules()[rule])
    tokenizer.save_pretrained(source)
    target = tmp_path / "out"
    export_format("gguf-q8_0", source, target)
    reader = gguf.GGUFReader(target / "model-Q8_0.gguf")
    assert reader.fields["tokenizer.ggml.pre"].contents() == rule
    assert reader.fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert reader.fields["tokenizer.ggml.add_bos_token"].contents() is True
    pieces = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    assert len(pieces) == 352 and kinds[0] == 3 and kinds[pieces.index("<tool>")] == 4 and kinds[-1] == 5
    if rule == "smollm":  # transformers does not know this one; the folder's tokenizer.json is what it uses
        return
    from_file = AutoTokenizer.from_pretrained(target, gguf_file="model-Q8_0.gguf")
    for text in ("The brown fox jumps in 1984!", "Überraschung:  zwei\n\nZeilen 12345", "a <tool> b"):
        assert from_file(text)["input_ids"] == tokenizer(text)["input_ids"], text


def test_sentencepiece_tokenizer_keeps_the_order_of_its_merges(families, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(families["llama"], source)
    tokenizer = sentencepiece_tokenizer()
    tokenizer.save_pretrained(source)
    vocabulary = read_vocabulary(source, 352)
    assert (vocabulary.model, vocabulary.merges, vocabulary.adds_bos) == ("llama", [], True)
    assert vocabulary.kinds[0] == 2 and vocabulary.kinds[1] == 3 and vocabulary.kinds[3 + 65] == 6
    scores = dict(zip(vocabulary.pieces, vocabulary.scores, strict=True))
    assert scores["th"] > scores["▁b"] > scores["▁brown"] > scores["19"] > scores["x"]
    export_format("gguf-q8_0", source, tmp_path / "out")
    from_file = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model-Q8_0.gguf")
    for text in ("the brown fox", "fox 1984 é"):
        assert from_file(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_tokenizers_that_llama_cpp_would_cut_otherwise_are_refused(families, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    source = tmp_path / "model"
    shutil.copytree(families["llama"], source)
    byte_level_tokenizer(pre_tokenizers.Whitespace()).save_pretrained(source)
    with pytest.raises(RequestError, match=r"a rule that this GGUF converter has no name for \(Whitespace\)"):
        export_format("gguf-q8_0", source, tmp_path / "out")
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>").save_pretrained(source)
    with pytest.raises(RequestError, match="with a BPE tokenizer, not with Unigram"):
        export_format("gguf-q8_0", source, tmp_path / "out")
    for file in source.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(RequestError, match="has no tokenizer that can be read"):
        export_format("gguf-q8_0", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    source = save_family(tmp_path / "small", "llama", vocab_size=288)
    with pytest.raises(RequestError, match=r"has token \d+, but the embedding only 288 rows"):
        export_format("gguf-q8_0", source, tmp_path / "out")


@pytest.mark.parametrize(
    "family, changes, message",
    [
        ("llama", {"attention_bias": True}, "attention_bias or mlp_bias is set"),
        ("mistral", {"sliding_window": 16}, "a sliding window is in use"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is gelu"),
        ("qwen3", {"head_dim": 64}, "head_dim is 64, not 128"),
    ],
)
def test_what_a_reader_would_not_see_is_refused(family, changes, message, families, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(families[family], source)
    change_config(source, **changes)
    with pytest.raises(RequestError, match=rf"gguf-q8_0 cannot be made from this {family} model: {message}"):
        FORMATS.get("gguf-q8_0").value().check_model(_without_weights(source))


def test_other_families_are_refused_by_name(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=64, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(RequestError, match=r"the gpt2 family: this converter knows llama, mistral, qwen2, qwen3"):
        export_format("gguf-q4_0", tmp_path / "gpt2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, block", [("gguf-q4_0", 32), ("gguf-q4_k_m", 256)])
def test_rows_that_blocks_do_not_divide_are_refused_by_name(name, block, tmp_path):
    source = save_family(tmp_path / "narrow", "llama", hidden_size=128, intermediate_size=208)
    layer = {32: r"mlp\.down_proj\.weight has 208", 256: r"embed_tokens\.weight has 128"}[block]
    with pytest.raises(RequestError, match=rf"{name} needs rows in multiples of {block} weights, but .*{layer}"):
        FORMATS.get(name).value().check_model(_without_weights(source))


def test_file_with_rows_in_the_wrong_order_is_not_kept(families, tmp_path, monkeypatch):
    """A converter that forgets how llama.cpp orders the rows of heads."""
    from hf_unlearn.quantization import gguf_file

    monkeypatch.setattr(gguf_file.Layout, "stored", lambda self, name, values: values)
    with pytest.raises(EnvironmentFailure, match=r"holds other weights than .*q_proj.weight"):
        export_format("gguf-q8_0", families["llama"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_file_is_refused_when_loaded(families, exported, tmp_path):
    target, _ = exported("gguf-q8_0", families["llama"])
    shutil.copytree(target, tmp_path / "cut")
    (tmp_path / "cut" / "model-Q8_0.gguf").write_bytes(b"no such thing")
    with pytest.raises(RequestError, match=r"model-Q8_0.gguf is no GGUF file that can be read"):
        load_model(tmp_path / "cut")
    shutil.copyfile(target / "model-Q8_0.gguf", tmp_path / "cut" / "another.gguf")
    with pytest.raises(RequestError, match=r"several GGUF files \(another.gguf, model-Q8_0.gguf\)"):
        load_model(tmp_path / "cut")


def test_gguf_folder_is_no_source_for_another_format(families, exported, tmp_path):
    target, _ = exported("gguf-q8_0", families["llama"])
    with pytest.raises(RequestError, match=r"already quantized \(gguf\)"):
        export_format("bnb-nf4", target, tmp_path / "out")


def test_full_disk_leaves_no_file(families, tmp_path, file_limit):
    with pytest.raises(Exception) as caught, file_limit(100_000):
        export_format("gguf-q8_0", families["llama"], tmp_path / "out")
    assert explain(caught.value) is not None
    assert not (tmp_path / "out").exists()


def test_stock_reader_in_a_fresh_process(families, exported, tmp_path):
    folders = {family: str(exported("gguf-q4_0", families[family])[0]) for family in ("llama", "qwen2")}
    (tmp_path / "load.py").write_text(FRESH, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "load.py"), json.dumps(folders)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for family, folder in folders.items():
        model = load_model(folder)
        with torch.inference_mode():
            here = model(input_ids=torch.arange(8).unsqueeze(0)).logits[0, -1, :8]
        assert torch.allclose(torch.tensor(found[family]), here, atol=5e-3), family


FRESH = """
import json, sys, torch
from transformers import AutoModelForCausalLM
found = {}
for name, folder in json.loads(sys.argv[1]).items():
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model-Q4_0.gguf", dtype=torch.float32)
    with torch.inference_mode():
        found[name] = model(input_ids=torch.arange(8).unsqueeze(0)).logits[0, -1, :8].tolist()
print()
print(json.dumps(found))
"""


def _without_weights(source):
    from hf_unlearn.models.loading import empty_model

    return empty_model(source)
