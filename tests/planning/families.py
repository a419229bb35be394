"""Tiny configurations of the families that a plan is checked on."""

from __future__ import annotations

from transformers import (
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

_SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
FAMILIES = ("llama", "tied llama", "qwen3", "gemma3", "gpt_neox", "mixtral", "qwen3_moe")


def tiny_config(family: str) -> PretrainedConfig:
    """A new configuration of a family."""
    grouped = {**_SIZES, "num_key_value_heads": 2}
    wide = {**grouped, "head_dim": 32}
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    makers = {
        "llama": lambda: LlamaConfig(**grouped),
        "tied llama": lambda: LlamaConfig(**grouped, tie_word_embeddings=True),
        "qwen3": lambda: Qwen3Config(**wide),
        "gemma3": lambda: Gemma3TextConfig(**wide, sliding_window=16, layer_types=layers),
        "gpt_neox": lambda: GPTNeoXConfig(**_SIZES),
        "mixtral": lambda: MixtralConfig(**grouped, num_local_experts=4, num_experts_per_tok=2),
        "qwen3_moe": lambda: Qwen3MoeConfig(
            **wide, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, decoder_sparse_step=1
        ),
    }
    return makers[family]()
