"""Models with random weights, made on the device: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.loading import run_device
from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        **{"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 1024},
        **{"num_attention_heads": 4, "num_key_value_heads": 2},
    },
    "1b": {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
    },
    "8b": {
        **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256},
        **{"num_attention_heads": 32, "num_key_value_heads": 8},
    },
}
"""Sizes of Llama 3.2 1B and Llama 3.1 8B."""


def config_of(size: str, **changed: Any) -> LlamaConfig:
    """The configuration of a size."""
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return LlamaConfig(**{**SIZES[size], "max_position_embeddings": 2048, **ends, **changed})


def random_model(config: LlamaConfig, dtype: torch.dtype) -> LlamaForCausalLM:
    """Weights are drawn where they stay: on a processor that alone would take minutes for 8B."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with run_device():
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def planted(facts: int) -> tuple[DataBundle, PreTrainedTokenizerBase]:
    """Made-up facts and a tokenizer for them; its vocabulary is a small part of a model's."""
    bundle = make_planted(PlantedSpec(forget=facts, retain=facts, holdout=facts // 2))
    texts = [row.text for row in (*bundle.generic.train, *bundle.forget.train)]
    return bundle, build_tokenizer(texts, ScratchSpec(vocab_size=1024))


def saved(folder: Path, size: str, facts: int) -> Path:
    """A folder with a model in bfloat16 and its tokenizer, made once."""
    made = folder / f"{size}-model"
    if not (made / "tokenizer_config.json").exists():
        random_model(config_of(size), torch.bfloat16).save_pretrained(made)
        planted(facts)[1].save_pretrained(made)
    return made
