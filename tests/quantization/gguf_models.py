"""Tiny models of the families that a GGUF file can hold, each with a tokenizer that llama.cpp knows."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer

TEXTS = [
    f"The brown fox {number} jumps over {number * 7} lazy dogs in the year 19{number % 100:02d}."
    for number in range(90)
]
SIZES = {
    "vocab_size": 352,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama3": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 128, "tie_word_embeddings": True}),
}
QWEN_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save_family(folder: Path, family: str, *, dtype: torch.dtype = torch.float32, **changes: object) -> Path:
    """A model with random weights, norms and biases, and a byte-level tokenizer."""
    torch.manual_seed(0)
    kind, config, own = FAMILIES[family]
    model = kind(config(**{**SIZES, **own, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            if "norm" in name:
                parameter.normal_(mean=1, std=0.1)
    model.to(dtype).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def byte_level_tokenizer(splitter=None) -> PreTrainedTokenizerFast:
    """Merges of :data:`TEXTS`; with another splitting rule if one is given."""
    tokenizer = build_tokenizer(TEXTS, ScratchSpec(vocab_size=300, max_positions=96))
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.add_tokens(["<tool>"])
    if splitter is not None:
        tokenizer.backend_tokenizer.pre_tokenizer = splitter
    return tokenizer


def splitting_rules() -> dict[str, pre_tokenizers.PreTokenizer | None]:
    """llama.cpp's name of a rule to the rule."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return {
        "gpt-2": None,
        "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_RULE), "isolated"), bytes_only]),
        "llama-bpe": pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN_RULE.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)), "isolated"), bytes_only]
        ),
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    }


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of Llama 2's kind: spaces as letters, unknown letters as bytes, merges by rank."""
    letters = sorted({letter for text in TEXTS for letter in text.replace(" ", "▁")})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("t", "h"), ("▁", "b"), ("r", "o"), ("o", "w"), ("▁b", "ro"), ("▁bro", "w"), ("▁", "f"), ("o", "x")]
    merges += [("▁f", "ox"), ("▁", "th"), ("▁th", "e"), ("▁brow", "n"), ("1", "9")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def change_config(folder: Path, **changes: object) -> None:
    """Set keys of a config without touching the weights."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}), encoding="utf-8")
