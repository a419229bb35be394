"""Greedy continuations, in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from ..errors import RequestError
from .scoring import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """Continue prompts greedily: left-padded, sorted by length, with a key-value cache.

    Nothing of the model's own generation settings is used but its stop tokens: a repetition penalty or a temperature
    that comes with a model would make other text than its most likely one.

    Args:
        model: In eval mode.
        tokenizer: For decoding, padding and its stop token.
        prompts: Token ids (see :func:`hf_unlearn.data.encoding.encode_prompt`), none of them empty.
        max_new_tokens: Greatest number of new tokens, less where prompt and continuation would leave the context.
        batch_size: Prompts per forward.

    Returns:
        The continuations without special tokens, in the order of ``prompts``.

    Raises:
        RequestError: A prompt is empty or fills the model's context.
    """
    if not prompts:
        return []
    if not all(prompts):
        raise RequestError(f"prompt {[bool(prompt) for prompt in prompts].index(False)} has no tokens to continue")
    longest, limit = max(map(len, prompts)), context_length(model)
    if limit is not None and longest >= limit:
        raise RequestError(
            f"a prompt has {longest} tokens, which leaves nothing of the model's {limit} to continue it"
        )
    stops = _stop_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=0)
    settings = GenerationConfig(
        max_new_tokens=min(max_new_tokens, limit - longest) if limit is not None else max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(stops) or None,
        pad_token_id=pad,
    )
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    with _plain_settings(model, settings), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            members = order[start : start + batch_size]
            new_tokens = _continue([prompts[index] for index in members], model, pad)
            for index, tokens in zip(members, new_tokens, strict=True):
                kept = tokens[: next((place for place, token in enumerate(tokens) if token in stops), len(tokens))]
                text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                texts[index] = str(text)
    return texts


def _continue(prompts: Sequence[Sequence[int]], model: PreTrainedModel, pad: int) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):
        ids[place, width - len(prompt) :] = torch.tensor(prompt)
        mask[place, width - len(prompt) :] = 1
    generate: Any = model.generate
    output = generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    return output[:, width:].tolist()


def _stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Stop tokens of the model (chat models have several) and of the tokenizer."""
    config = getattr(model, "generation_config", None)
    stops = getattr(config, "eos_token_id", None)
    found = set(stops if isinstance(stops, list) else [stops]) | {tokenizer.eos_token_id}
    return {int(token) for token in found if token is not None}


@contextlib.contextmanager
def _plain_settings(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Put other generation settings in place of the model's own, which ``generate`` would else fill in."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
