"""Continuations of the prompts of scored rows: greedy ones and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..data.encoding import TextFormat, encode_prompt
from ..data.example import Example
from .batch_runner import Passes
from .generation import Prompt, generate
from .records import ScoredRow
from .spec import SetRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        for prompt in _prompts(row, record.set, request, encode_prompt(row, tokenizer, fmt)):
            places.append(place)
            prompts.append(prompt)
    texts = generate(model, tokenizer, prompts, passes)
    for place, prompt, text in zip(places, prompts, texts, strict=True):
        if prompt.sampling is None:
            done[place] = replace(done[place], generated=text)
        else:
            done[place] = replace(done[place], samples=(*done[place].samples, text))
    return done


def _prompts(row: Example, name: str, request: SetRequest, ids: tuple[int, ...]) -> list[Prompt]:
    prompt = Prompt(ids, row.origin or row.id, request.max_new_tokens, request.stop)
    greedy = [prompt] if "generation" in request.needs else []
    if request.sampling is None:
        return greedy
    samples = [
        replace(prompt, sampling=request.sampling, key=f"{name}/{row.id}", sample=number)
        for number in range(request.sampling.count)
    ]
    return greedy + samples
