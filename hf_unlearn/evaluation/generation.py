"""Continuations of prompts, in batches: greedy or sampled, with stop strings, from a cache that has room for them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    DynamicCache,
    DynamicLayer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..data.encoding import TextFormat, encode_prompt
from ..data.example import Example
from ..errors import RequestError
from ..models.limits import context_length, padding_id
from ..models.placement import input_device
from .batch_runner import Passes
from .records import ScoredRow
from .spec import Sampling, SetRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue, and how.

    Attributes:
        ids: Token ids (see :func:`hf_unlearn.data.encoding.encode_prompt`).
        name: For messages: file and line, or another name of the prompt.
        max_new_tokens: Maximum number of new tokens.
        stop: Strings at which the continuation ends; it is cut before the first of them.
        sampling: How to sample; ``None`` for greedy.
        key: With the seed it decides the draws: the row's id.
        sample: Number of the sample.
    """

    ids: tuple[int, ...]
    name: str
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None
    key: str = ""
    sample: int = 0


def add_continuations(
    records: Sequence[ScoredRow],
    rows: Sequence[Example],
    requests: Mapping[str, SetRequest],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    fmt: TextFormat,
    passes: Passes,
) -> list[ScoredRow]:
    """Records with the continuations that their sets ask for, for the first ``generate_limit`` facts of each.

    Args:
        records: Records of ``rows``, in the same order.
        rows: The rows; those without a prompt get no continuation.
        requests: What is asked of each set.
        model: In eval mode.
        tokenizer: The model's tokenizer.
        fmt: How prompt and answer become one text.
        passes: Runs the batches.
    """
    done = list(records)
    places: list[int] = []
    prompts: list[Prompt] = []
    facts: dict[str, dict[str, int]] = {}  # by set, the facts in the order in which they come
    for place, (record, row) in enumerate(zip(records, rows, strict=True)):
        request = requests[record.set]
        if not request.needs & {"generation", "samples"}:
            continue
        seen = facts.setdefault(record.set, {})
        number = seen.setdefault(row.fact, len(seen))
        if not row.prompt or (request.generate_limit is not None and number >= request.generate_limit):
            continue
        for prompt in _prompts_of(row, record.set, request, encode_prompt(row, tokenizer, fmt)):
            places.append(place)
            prompts.append(prompt)
    texts = generate(model, tokenizer, prompts, passes)
    for place, prompt, text in zip(places, prompts, texts, strict=True):
        if prompt.sampling is None:
            done[place] = replace(done[place], generated=text)
        else:
            done[place] = replace(done[place], samples=(*done[place].samples, text))
    return done


def _prompts_of(row: Example, name: str, request: SetRequest, ids: tuple[int, ...]) -> list[Prompt]:
    prompt = Prompt(ids, row.origin or row.id, request.max_new_tokens, request.stop)
    greedy = [prompt] if "generation" in request.needs else []
    if request.sampling is None:
        return greedy
    samples = [
        replace(prompt, sampling=request.sampling, key=f"{name}/{row.id}", sample=number)
        for number in range(request.sampling.count)
    ]
    return greedy + samples


def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """Continue prompts greedily. See :func:`generate`.

    Args:
        model: In eval mode.
        tokenizer: For decoding, padding and its stop token.
        prompts: Token ids, none of them empty.
        max_new_tokens: Maximum number of new tokens.
        batch_size: Prompts per forward.
    """
    asked = [Prompt(tuple(ids), f"prompt {number}", max_new_tokens) for number, ids in enumerate(prompts)]
    return generate(model, tokenizer, asked, Passes(2**31), most=batch_size)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    passes: Passes,
    *,
    name: str = "generation",
    most: int | None = None,
) -> list[str]:
    """Continue prompts: left-padded, sorted by length, with a key-value cache; equal prompts once.

    Of the model's own generation settings only the stop tokens are used: a repetition
    penalty or temperature would change the model's own distribution. A prompt that with its continuation
    would leave the model's context gets fewer new tokens.

    Args:
        model: In eval mode.
        tokenizer: For decoding, padding and its stop token.
        prompts: What to continue.
        passes: Runs the batches.
        name: Name of the pass.
        most: Greatest number of prompts in a batch.

    Returns:
        The continuations without special tokens, in the order of ``prompts``; empty where the model stops at once.

    Raises:
        RequestError: A prompt is empty or fills the model's context, or logits on it are not numbers. The message
            names the prompt.
    """
    if not prompts:
        return []
    generator = _Generator(model, tokenizer)
    lengths = [generator.new_tokens(prompt) for prompt in prompts]
    # What decides the continuation; equal prompts of two rows have equal greedy continuations.
    tasks: dict[tuple[Any, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        draws = None if prompt.sampling is None else (prompt.key, prompt.sample)
        tasks.setdefault((prompt.ids, lengths[index], prompt.stop, prompt.sampling, draws), []).append(index)
    firsts = [members[0] for members in tasks.values()]

    def work(members: Sequence[int]) -> list[str]:
        asked = [prompts[firsts[member]] for member in members]
        return generator.run(asked, lengths[firsts[members[0]]])

    sizes = [len(prompts[first].ids) + lengths[first] for first in firsts]
    kinds = [(lengths[first], prompts[first].stop, prompts[first].sampling) for first in firsts]
    with torch.inference_mode():
        found = passes.run(name, sizes, work, kinds=kinds, most=most)
    texts = [""] * len(prompts)
    for members, text in zip(tasks.values(), found, strict=True):
        for member in members:
            texts[member] = text
    return texts


class _Generator:
    """Continues one batch at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._stops = _stop_tokens(model, tokenizer)
        self._limit = context_length(model)
        has_own = tokenizer.pad_token_id is not None
        self._pad = padding_id(tokenizer, model) if has_own else min(self._stops, default=0)

    def new_tokens(self, prompt: Prompt) -> int:
        """How many new tokens a prompt can have."""
        if not prompt.ids:
            raise RequestError(f"{prompt.name} has no tokens to continue")
        if self._limit is None:
            return prompt.max_new_tokens
        if len(prompt.ids) >= self._limit:
            raise RequestError(
                f"{prompt.name}: the prompt has {len(prompt.ids)} tokens, which leaves nothing of the model's "
                f"{self._limit} to continue it"
            )
        return min(prompt.max_new_tokens, self._limit - len(prompt.ids))

    def run(self, prompts: Sequence[Prompt], new_tokens: int) -> list[str]:
        """Continuations of prompts with the same settings."""
        width = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), width), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, prompt in enumerate(prompts):
            ids[place, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask[place, width - len(prompt.ids) :] = 1
        settings = GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=sorted(self._stops) or None,
            pad_token_id=self._pad,
        )
        stopping = [_StopStrings(self._tokenizer, prompts[0].stop, width)] if prompts[0].stop else []
        cache = roomy_cache(self._model, width + new_tokens)
        generate: Any = self._model.generate
        with _plain_settings(self._model, settings):
            output = generate(
                input_ids=ids.to(input_device(self._model)),
                attention_mask=mask.to(input_device(self._model)),
                logits_processor=LogitsProcessorList(self._processors(prompts, width, new_tokens)),
                stopping_criteria=StoppingCriteriaList(stopping),
                **({} if cache is None else {"past_key_values": cache}),
            )
        return [self._text(tokens, prompts[0].stop) for tokens in output[:, width:].tolist()]

    def _processors(self, prompts: Sequence[Prompt], width: int, new_tokens: int) -> list[LogitsProcessor]:
        processors: list[LogitsProcessor] = [_Numbers([prompt.name for prompt in prompts])]
        sampling = prompts[0].sampling
        if sampling is not None:
            draws = [uniform_draws(sampling.seed, prompt.key, prompt.sample, new_tokens) for prompt in prompts]
            processors.append(RowSampler(draws, width, sampling.temperature, sampling.top_p))
        return processors

    def _text(self, tokens: Sequence[int], stop: Sequence[str]) -> str:
        kept = tokens[: next((place for place, token in enumerate(tokens) if token in self._stops), len(tokens))]
        text = _decode(self._tokenizer, kept)
        ends = [place for place in (text.find(string) for string in stop) if place >= 0]
        return text[: min(ends)] if ends else text


class _Numbers(LogitsProcessor):
    """Refuses logits that are not numbers, by the name of the prompt."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores as they are."""
        broken = scores.isnan().any(-1)
        if bool(broken.any()):
            name = self._names[int(broken.nonzero()[0])]
            raise RequestError(
                f"{name}: the model's logits are not numbers when it continues this prompt: its weights are broken, "
                "or its dtype is too small for it"
            )
        return scores


class _StopStrings(StoppingCriteria):
    """Ends a continuation whose text holds one of the strings. The text is cut afterwards; this only saves work.

    ``StopStringCriteria`` of transformers would end others too: it also finds strings that begin in the prompt, that
    are written by a special token, or that begin with a space which decoding drops.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], width: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._width = width
        # A new token can only complete a string that reaches back so many tokens: each has a byte at least.
        self._tail = max(len(string.encode()) for string in stop) + 8

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        """For each row whether it is done, as a tensor."""
        done = []
        for tokens in input_ids[:, self._width :].tolist():
            done.append(self._holds(tokens[-self._tail :]) and self._holds(tokens))
        return torch.tensor(done, device=input_ids.device)

    def _holds(self, tokens: Sequence[int]) -> bool:
        text = _decode(self._tokenizer, tokens)
        return any(string in text for string in self._stop)


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


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


def uniform_draws(seed: int, key: str, sample: int, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) that depend on seed, key and number of the sample only."""
    digest = hashlib.sha256(f"{seed}:{sample}:{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big")).random(count)


class RowSampler(LogitsProcessor):
    """Keeps only the drawn token, so that greedy decoding takes it.

    The token is the first whose cumulative probability is above the row's uniform number of this step (inverse
    transform sampling), computed in float64.

    Args:
        draws: Uniform numbers ``[rows, steps]``.
        width: Number of tokens before the first step.
        temperature: Divides the logits.
        top_p: Nucleus sampling (arXiv 1904.09751): the fewest most likely tokens that have this probability together.
    """

    def __init__(self, draws: Sequence[np.ndarray], width: int, temperature: float, top_p: float) -> None:
        self._draws = torch.from_numpy(np.stack(draws))
        self._width = width
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``[rows, vocabulary]`` that are -inf but at one token a row."""
        # Not every accelerator has float64.
        device = torch.device("cpu") if scores.device.type == "mps" else scores.device
        probabilities = (scores.to(device).double() / self._temperature).softmax(-1)
        if self._top_p < 1:
            probabilities = _nucleus(probabilities, self._top_p)
        cumulative = probabilities.cumsum(-1)
        draws = self._draws[:, input_ids.shape[1] - self._width, None].to(device)
        tokens = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
        tokens = tokens.clamp_(max=scores.shape[-1] - 1).to(scores.device)
        return torch.full_like(scores, float("-inf")).scatter_(-1, tokens, 0.0)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, places = probabilities.sort(stable=True, dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probabilities).scatter_(-1, places, ordered.masked_fill(before >= top_p, 0.0))


def roomy_cache(model: PreTrainedModel, length: int) -> DynamicCache | None:
    """A cache for one call of ``generate``.

    Args:
        model: What generates.
        length: Tokens of prompt and continuation.

    Returns:
        The cache; ``None`` for families with other caches than one of all tokens in every layer, which make their own.
    """
    supported = getattr(model, "_supports_default_dynamic_cache", None)
    if supported is None or not supported() or getattr(model, "_is_stateful", False):
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [RoomyLayer(length) for _ in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values ``[rows, heads, tokens, size]`` as the beginning of tensors that are made once.

    The usual cache of generation makes a new tensor of everything it holds for every token and layer, which on a CPU
    takes more time than the model does.

    Args:
        length: Tokens there is room for; more are taken as the usual layer takes them.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens; returns those of all tokens."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if start == 0 and end <= self._length:
            self.lazy_initialization(key_states, value_states)
            self._rooms = (self._room(key_states), self._room(value_states))
        if self._rooms is None or end > self._length:
            self._rooms = None
            return super().update(key_states, value_states, *args, **kwargs)
        keys, values = self._rooms
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def _room(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_empty((*states.shape[:-2], self._length, states.shape[-1]))
