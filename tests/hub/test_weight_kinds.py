"""Verified loading of weights in several files, and of GGUF."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_unlearn.errors import RequestError, VerificationError
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.folders import publish_to_folder
from hf_unlearn.hub.metadata import CardWords
from hf_unlearn.hub.verified import VerifiedModel
from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer
from hf_unlearn.quantization import export_format
from hf_unlearn.verification.digests import folder_digests

TOKENS = torch.tensor([[1, 4, 3]])
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WORDS = CardWords(title="Tiny", removed="nothing that was ever there")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in several shards, with a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(["When was Ada Kwon born? In 1962."], ScratchSpec(vocab_size=300))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters=LLAMA3_ROPE,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="80KB")
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Made:
    """Published folders of the main model and of the variant."""

    main: Path
    variant: Path


@pytest.fixture
def made(model_folder: Path, reporting, tmp_path: Path) -> Made:
    """The sharded model and its GGUF variant, published."""
    export_format("gguf-q8_0", model_folder, tmp_path / "gguf")
    files = {"identity": folder_digests(model_folder), "bnb-nf4": folder_digests(tmp_path / "gguf")}
    report: dict[str, Any] = json.loads(json.dumps(reporting(files)).replace("bnb-nf4", "gguf-q8_0"))
    main, variant = tmp_path / "publish", tmp_path / "publish-gguf-q8_0"
    publish_to_folder(
        model_folder,
        {"gguf-q8_0": tmp_path / "gguf"},
        report,
        WORDS,
        out_main=main,
        out_variants={"gguf-q8_0": variant},
    )
    return Made(main, variant)


def test_shards_that_swap_places(made: Made) -> None:
    expected = AutoModelForCausalLM.from_pretrained(made.main)(TOKENS).logits
    assert torch.equal(VerifiedModel.from_pretrained(made.main)(TOKENS).logits, expected)
    first, second, *_ = sorted(made.main.glob("model-*-of-*.safetensors"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert [problem.split(":")[0] for problem in check_folder(made.main).problems] == [first.name, second.name]
    with pytest.raises(VerificationError, match=f"{first.name}: is not the file that was verified"):
        VerifiedModel.from_pretrained(made.main)


def test_an_index_that_points_elsewhere(made: Made) -> None:
    index = made.main / "model.safetensors.index.json"
    names = json.loads(index.read_text())
    name = next(iter(names["weight_map"]))
    names["weight_map"][name] = "../../other.safetensors"
    index.write_text(json.dumps(names))
    with pytest.raises(VerificationError, match=r"model\.safetensors\.index\.json: is not the file"):
        VerifiedModel.from_pretrained(made.main)


def test_a_missing_shard(made: Made) -> None:
    shard = min(made.main.glob("model-*-of-*.safetensors"))
    shard.unlink()
    with pytest.raises(VerificationError, match=f"{shard.name}: is missing"):
        VerifiedModel.from_pretrained(made.main)


def test_gguf_is_found_in_the_report_and_loaded(made: Made) -> None:
    model = VerifiedModel.from_pretrained(made.variant)
    config = AutoConfig.from_pretrained(made.variant)
    expected = AutoModelForCausalLM.from_pretrained(made.variant, config=config, gguf_file="model-Q8_0.gguf")
    assert torch.equal(model(TOKENS).logits, expected(TOKENS).logits)
    # The rotary scaling is not in what transformers reads from the file alone.
    assert model.config.rope_parameters["rope_type"] == "llama3"
    stock = AutoModelForCausalLM.from_pretrained(made.variant, gguf_file="model-Q8_0.gguf")
    assert not torch.equal(model(TOKENS).logits, stock(TOKENS).logits)
    with pytest.raises(RequestError, match="gguf_file is refused: the file is taken from the report"):
        VerifiedModel.from_pretrained(made.variant, gguf_file="other.gguf")
    card = (made.variant / "README.md").read_text()
    assert 'config=config, gguf_file="model-Q8_0.gguf")' in card


def test_a_changed_gguf_and_a_second_one(made: Made) -> None:
    file = made.variant / "model-Q8_0.gguf"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(VerificationError, match=r"model-Q8_0\.gguf: is not the file that was verified"):
        VerifiedModel.from_pretrained(made.variant)
    file.write_bytes(data)
    (made.variant / "model-Q4_0.gguf").write_bytes(data)
    with pytest.raises(VerificationError, match=r"model-Q4_0\.gguf: was added"):
        VerifiedModel.from_pretrained(made.variant)
