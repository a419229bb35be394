"""Tiny models of several architectures on disk, each with a tokenizer, and text to calibrate them with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import MissingExtraError
from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer
from hf_unlearn.quantization import FORMATS
from hf_unlearn.quantization.calibration import Calibration, CalibrationSpec, Text, choose

VOCABULARY = 320
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts_per_tok": 2, "head_dim": 64}


@cache
def bundle() -> DataBundle:
    """Planted facts and ordinary sentences."""
    return make_planted(PlantedSpec(forget=24, retain=24, holdout=8, practice=4, generic=48))


@cache
def _tokenizer():
    rows = (*bundle().generic.train, *bundle().forget.train)
    return build_tokenizer([row.text for row in rows], ScratchSpec(vocab_size=VOCABULARY))


def calibration(kind: str = "generic", **spec: object) -> Calibration:
    """Calibration text out of the planted sentences."""
    settings = CalibrationSpec(rows=24, **spec)  # type: ignore[arg-type]
    return choose(kind, settings, Text(bundle().generic.train, "planted"), bundle(), TextFormat(), seed=0)


def make_model(kind: str, **changes: object) -> PreTrainedModel:
    """A model with random weights: ``llama``, ``tied``, ``biased`` (Qwen2), ``neox``, ``mixtral`` or ``qwen3-moe``."""
    torch.manual_seed(0)
    sizes = {**_SIZES, **changes}
    if kind == "biased":
        # transformers gives every tokenizer of this family an end token of its own, beyond the vocabulary.
        sizes["vocab_size"] = max(int(str(sizes["vocab_size"])), VOCABULARY + 64)
        model: PreTrainedModel = Qwen2ForCausalLM(Qwen2Config(**sizes))
    elif kind == "neox":  # its head has one name in the model and another in files
        del sizes["num_key_value_heads"]
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes))
    elif kind == "mixtral":
        model = MixtralForCausalLM(MixtralConfig(**sizes, **_EXPERTS, num_local_experts=4))
    elif kind == "qwen3-moe":
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **_EXPERTS, num_experts=4, moe_intermediate_size=128))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=kind == "tied"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def save_model(folder: Path, kind: str = "llama", *, shard: str | None = None, **changes: object) -> Path:
    """``make_model`` on disk in bfloat16, with a tokenizer."""
    sizes = {} if shard is None else {"max_shard_size": shard}
    make_model(kind, **changes).bfloat16().save_pretrained(folder, **sizes)
    _tokenizer().save_pretrained(folder)
    return folder


def skip_without(name: str) -> None:
    """Skip a test whose format has no library here."""
    try:
        FORMATS.get(name).value().check_available()
    except MissingExtraError as error:
        pytest.skip(str(error))


def with_generic(rows, score=()) -> DataBundle:
    """The bundle with another generic set."""
    return replace(bundle(), generic=replace(bundle().generic, train=tuple(rows), score=tuple(score)))
