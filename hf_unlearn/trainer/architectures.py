"""What a model that is trained from scratch is made of: the kinds of transformer it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .scratch import ScratchSpec


def new_model(spec: ScratchSpec, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model with random weights, drawn from torch's random state.

    Args:
        spec: Its architecture and sizes.
        tokenizer: Gives the size of the vocabulary and the special tokens.
    """
    return ARCHITECTURES[spec.architecture](spec, tokenizer)


def _llama(spec: ScratchSpec, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_sizes(spec, tokenizer), num_key_value_heads=spec.kv_heads))


def _gpt_neox(spec: ScratchSpec, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**_sizes(spec, tokenizer)))


def _sizes(spec: ScratchSpec, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What all configurations call alike."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "max_position_embeddings": spec.max_positions,
        "tie_word_embeddings": spec.tie_embeddings,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


ARCHITECTURES: Mapping[str, Callable[[ScratchSpec, PreTrainedTokenizerBase], PreTrainedModel]] = {
    "llama": _llama,
    "gpt_neox": _gpt_neox,
}
"""By ``model_type`` of transformers."""
