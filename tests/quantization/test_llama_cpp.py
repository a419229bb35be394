"""What needs llama.cpp, which is compiled when it is installed: K-quants, and scoring a file as llama.cpp runs it."""

from __future__ import annotations

import importlib.util
import json

import gguf
import pytest
import torch
from gguf_models import TEXTS, byte_level_tokenizer, save_family, sentencepiece_tokenizer, splitting_rules
from transformers import AutoTokenizer

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import Example
from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.evaluation.generation import generate_greedy
from hf_unlearn.evaluation.records import read_records
from hf_unlearn.evaluation.run import EvalSpec, SetScoring, evaluate_folder
from hf_unlearn.models.llama_cpp import load_llama_cpp, runtime_transforms, split_runtime
from hf_unlearn.models.loading import load_model
from hf_unlearn.quantization import export_format

K_QUANTS = ["gguf-iq4_nl", "gguf-q2_k", "gguf-q3_k_m", "gguf-q4_k_m", "gguf-q5_k_m", "gguf-q6_k"]
needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed: pip install 'hf_unlearn[llama-cpp]' (compiles for minutes)",
)


def test_transform_names_say_what_runs_them():
    assert split_runtime("gguf-q4_0@llama.cpp") == ("gguf-q4_0", "llama.cpp")
    assert split_runtime("identity") == ("identity", "transformers")
    assert split_runtime("gptq-int4-g128@forget-aware") == ("gptq-int4-g128@forget-aware", "transformers")


def test_llama_cpp_runs_nothing_but_gguf(tmp_path):
    source = save_family(tmp_path / "model", "llama")
    with pytest.raises(RequestError, match=r"holds no GGUF file: llama\.cpp cannot run anything else"):
        load_llama_cpp(source)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_family(tmp_path_factory.mktemp("llama") / "model", "llama", num_hidden_layers=2)


def logits(model, length: int = 40) -> torch.Tensor:
    ids = torch.randint(3, 300, (2, length), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).logits.float()[mask.bool()]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name", [*K_QUANTS, "gguf-q4_0", "gguf-q8_0"])
@pytest.mark.parametrize("family", ["llama", "llama3", "mistral", "qwen2", "qwen3"])
def test_llama_cpp_and_transformers_read_the_same_weights(name, family, tmp_path, exported, tmp_path_factory):
    model = save_family(tmp_path / "model", family, num_hidden_layers=2)
    target, info = tmp_path / "out", export_format(name, model, tmp_path / "out")
    untouched = logits(load_model(model))
    read, run = logits(load_model(target)), logits(load_llama_cpp(target))
    # llama.cpp rounds activations to 8 bits and its cache to float16.
    assert distance(run, read) < 0.03
    if info.bits < 6:
        assert distance(read, untouched) > 2 * distance(run, read)
    assert info.reload_error <= 1e-5


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name", K_QUANTS)
def test_quantizer_of_llama_cpp_makes_the_types_of_the_name(name, source, exported):
    target, info = exported(name, source)
    file = next(target.glob("*.gguf"))
    wanted = name.removeprefix("gguf-").removesuffix("_m").upper()
    assert file.name == f"model-{name.removeprefix('gguf-').upper()}.gguf"
    assert [item.name for item in target.glob("*.gguf")] == [file.name], "the plain file is gone"
    types = [tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) > 1]
    assert types.count(wanted) >= len(types) / 3 and wanted in types
    assert info.quantized_share > 0.99 and info.library == "llama-cpp-python"


@needs_llama_cpp
@pytest.mark.slow
def test_sizes_are_ordered_by_bits_and_errors_against_them(source, exported):
    names = ["gguf-q2_k", "gguf-q3_k_m", "gguf-q4_k_m", "gguf-q5_k_m", "gguf-q6_k", "gguf-q8_0"]
    infos = [exported(name, source)[1] for name in names]
    assert [info.bytes for info in infos] == sorted(info.bytes for info in infos)
    untouched = logits(load_model(source))
    errors = [distance(logits(load_model(exported(name, source)[0])), untouched) for name in names]
    assert errors == sorted(errors, reverse=True)


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name, number", [("gguf-q8_0", 7), ("gguf-q4_0", 2)])
def test_gguf_package_and_llama_cpp_quantize_alike(name, number, source, exported, tmp_path):
    """Every matrix but the head of Q4_0, for which llama.cpp has a finer type that the package cannot write."""
    from hf_unlearn.quantization.gguf import quantize_file
    from hf_unlearn.quantization.gguf_file import read_vocabulary, write_file

    ours = next(exported(name, source)[0].glob("*.gguf"))
    plain, theirs = tmp_path / "plain.gguf", tmp_path / "theirs.gguf"
    write_file(load_model(source), read_vocabulary(source, 352), plain, lambda *_: "F32", 0)
    quantize_file(plain, theirs, number)
    mine = {tensor.name: tensor for tensor in gguf.GGUFReader(ours).tensors}
    same = 0
    for tensor in gguf.GGUFReader(theirs).tensors:
        if tensor.name != "output.weight" or name == "gguf-q8_0":
            assert tensor.tensor_type == mine[tensor.name].tensor_type, tensor.name
            same += (tensor.data == mine[tensor.name].data).mean() > 0.999
    assert same == len(mine) - (name == "gguf-q4_0")


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("rule", [*splitting_rules(), "sentencepiece"])
def test_llama_cpp_cuts_text_like_the_tokenizer(rule, tmp_path):
    model = save_family(tmp_path / "model", "llama")
    tokenizer = sentencepiece_tokenizer() if rule == "sentencepiece" else byte_level_tokenizer(splitting_rules()[rule])
    tokenizer.save_pretrained(model)
    export_format("gguf-q8_0", model, tmp_path / "out")
    loaded = load_llama_cpp(tmp_path / "out")
    runner = loaded._with_room(8)
    for text in (*TEXTS[:3], "Überraschung: zwei\n\nZeilen 12345!", "it's  1984"):
        assert runner.tokenize(text.encode(), add_bos=True, special=True) == tokenizer(text)["input_ids"], text


def rows() -> tuple[Example, ...]:
    return tuple(
        Example(
            id=f"row{number}",
            fact=f"fact{number}",
            group=f"group{number % 3}",
            prompt=f"The brown fox {number} jumps over",
            answer=f" {number * 7} lazy dogs",
            choices=(f" {number * 7} lazy dogs", " the year 1984", " nothing"),
        )
        for number in range(6)
    )


@needs_llama_cpp
@pytest.mark.slow
def test_the_same_records_come_from_both_readers(source, exported, tmp_path):
    target, _ = exported("gguf-q8_0", source)
    original, _ = exported("gguf-q4_0", source)
    generic = tuple(
        Example(id=f"text{n}", fact=f"text{n}", group=f"text{n}", prompt="", answer=text)
        for n, text in enumerate(TEXTS[:3])
    )
    spec = EvalSpec(metrics=("probability", "extraction_strength", "exact_match", "mc_accuracy"), max_new_tokens=6)
    arguments = ({"forget": rows()}, generic, original, TextFormat(), spec)
    evaluate_folder(target, *arguments, tmp_path / "read")
    evaluate_folder(target, *arguments, tmp_path / "run", runtime="llama.cpp")
    read, run = read_records(tmp_path / "read/records.jsonl"), read_records(tmp_path / "run/records.jsonl")
    assert len(read) == len(run) == 9
    for one, other in zip(read[:6], run[:6], strict=True):
        assert torch.allclose(torch.tensor(one.logps), torch.tensor(other.logps), atol=0.05)
        assert torch.allclose(torch.tensor(one.choice_logps), torch.tensor(other.choice_logps), atol=0.2)
        assert one.choice_lengths == other.choice_lengths and other.generated is not None
        assert one.values.keys() == other.values.keys()
    for one, other in zip(read[6:], run[6:], strict=True):
        assert other.values["kl_to_target"] == pytest.approx(one.values["kl_to_target"], rel=0.2, abs=1e-3)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["forget"]["probability"]["n"] == 6


@needs_llama_cpp
@pytest.mark.slow
def test_greedy_continuations_are_the_most_likely_tokens(source, exported):
    """Checked token by token against one pass over prompt and continuation, which uses no cache."""
    target, _ = exported("gguf-q8_0", source)
    model, tokenizer = load_llama_cpp(target), AutoTokenizer.from_pretrained(target)
    prompt = tokenizer("The brown fox")["input_ids"]
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    text = generate_greedy(model, tokenizer, [prompt], 8, 1)[0]
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=[2], pad_token_id=0)
    tokens = model.generate(torch.tensor([prompt]), mask)
    assert text == tokenizer.decode(tokens[0, len(prompt) :].tolist(), skip_special_tokens=True)
    scores = model(input_ids=tokens).logits[0]
    gaps = (
        scores.max(-1).values[len(prompt) - 1 : -1]
        - scores[range(len(prompt) - 1, tokens.shape[1] - 1), tokens[0, len(prompt) :]]
    )
    assert (gaps < 0.05).all(), "the cache rounds, so that a near tie may fall the other way"


@needs_llama_cpp
@pytest.mark.slow
def test_metrics_that_llama_cpp_cannot_serve_are_refused(source, exported, tmp_path):
    target, _ = exported("gguf-q8_0", source)
    scoring = {"forget": SetScoring(needs=("layers",))}
    with pytest.raises(RequestError, match=r"needs layers, which llama\.cpp does not give"):
        evaluate_folder(
            target,
            {"forget": rows()},
            (),
            None,
            TextFormat(),
            EvalSpec(metrics=("probability",)),
            tmp_path / "out",
            scoring=scoring,
            runtime="llama.cpp",
        )


@needs_llama_cpp
@pytest.mark.slow
def test_full_disk_while_llama_cpp_quantizes_is_said(source, tmp_path, file_limit):
    with pytest.raises((EnvironmentFailure, OSError)), file_limit(200_000):
        export_format("gguf-q4_k_m", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_llama_cpp
@pytest.mark.slow
def test_every_gguf_format_is_also_run_by_llama_cpp():
    assert runtime_transforms(["bf16", "gguf-q4_0", "bnb-nf4"]) == ("gguf-q4_0@llama.cpp",)
