"""Ordinary text: how far a model moved from the target there, and whether it still writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..data.encoding import EncodedRow, TextFormat, encode_row
from ..data.example import Example
from ..errors import RequestError
from .batch import Batch, padded_batch
from .batch_runner import Passes
from .generation import Prompt, generate
from .logits import SelectedLogits
from .metrics.text import text_entropy
from .records import ScoredRow
from .scoring import check_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GENERIC_SET = "generic"
_LONGEST_PREFIX = 16


def score_generic(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    fmt: TextFormat,
    *,
    max_new_tokens: int = 64,
    batch_tokens: int = 4096,
    passes: Passes | None = None,
) -> list[ScoredRow]:
    """Records of the generic set with the values ``kl_to_target`` and ``fluency``.

    ``kl_to_target`` is ``KL(reference || model)`` over the next token, averaged over the row's labels (nats per
    token). ``fluency`` is :func:`~hf_unlearn.evaluation.metrics.text.text_entropy` of the greedy continuation of the
    row's first third (at most 16 tokens after the tokenizer's own).

    Args:
        model: The model to judge, in eval mode.
        reference: The target under the same transform; ``None`` leaves ``kl_to_target`` out.
        tokenizer: The tokenizer of both.
        rows: Generic rows.
        fmt: How prompt and answer become one text.
        max_new_tokens: Length of the continuations.
        batch_tokens: Tokens per forward, padding included.
        passes: Runs the batches; ``batch_tokens`` is then not read.

    Raises:
        RequestError: A row is empty or longer than the context, the models' vocabularies differ, or logits are not
            finite.
    """
    passes = passes or Passes(batch_tokens)
    encoded = [encode_row(row, tokenizer, fmt, eos=False) for row in rows]
    check_lengths(model, encoded, {row.id: row.origin or row.id for row in rows})
    divergences = [None] * len(rows) if reference is None else kl_per_row(model, reference, encoded, passes)
    prompts = [
        Prompt(prefix(row), f"generic row {source.origin or source.id}", max_new_tokens)
        for source, row in zip(rows, encoded, strict=True)
    ]
    texts = generate(model, tokenizer, prompts, passes, name="generic generation")
    records = []
    for row, divergence, text in zip(rows, divergences, texts, strict=True):
        values = {"fluency": text_entropy(text)} | ({} if divergence is None else {"kl_to_target": divergence})
        records.append(ScoredRow(row.id, row.fact, row.group, GENERIC_SET, generated=text, values=values))
    return records


def kl_per_row(
    model: PreTrainedModel, reference: PreTrainedModel, rows: Sequence[EncodedRow], passes: Passes
) -> list[float]:
    """``KL(reference || model)`` in nats, averaged over each row's labels.

    Raises:
        RequestError: The vocabularies differ, or logits are not finite.
    """
    if model is reference or not rows:
        return [0.0] * len(rows)
    sizes = [item.config.get_text_config().vocab_size for item in (reference, model)]
    if sizes[0] != sizes[1]:
        raise RequestError(f"the target has {sizes[0]} tokens and this model {sizes[1]}: their KL is not defined")
    ours, theirs = SelectedLogits(model), SelectedLogits(reference)
    fed = [row.input_ids[:-1] for row in rows]

    def work(members: Sequence[int]) -> list[float]:
        batch = padded_batch([fed[member] for member in members], ours.device)
        return _kl_of_batch(ours, theirs, batch, [rows[member] for member in members])

    with torch.inference_mode():
        return list(passes.run("generic kl", [len(ids) for ids in fed], work))


def prefix(row: EncodedRow) -> tuple[int, ...]:
    """What a generic row's continuation starts from: what the tokenizer puts first and a third of the rest."""
    labels = len(row.input_ids) - row.n_prompt
    return row.input_ids[: row.n_prompt + min(labels // 3, _LONGEST_PREFIX)]


def _kl_of_batch(
    ours: SelectedLogits, theirs: SelectedLogits, batch: Batch, members: Sequence[EncodedRow]
) -> list[float]:
    places, positions = [], []
    for place, row in enumerate(members):
        for position in range(row.n_prompt - 1, len(row.input_ids) - 1):
            places.append(place)
            positions.append(position)
    sums = torch.zeros(len(members), dtype=torch.float64, device=ours.device)
    both = zip(ours.chunks(batch, places, positions), theirs.chunks(batch, places, positions), strict=True)
    for (part, our_logits), (_, their_logits) in both:
        logp, logq = their_logits.log_softmax(-1), our_logits.log_softmax(-1)
        divergence = (logp.exp() * (logp - logq)).sum(-1).double()
        sums.index_add_(0, torch.tensor(places[part], device=ours.device), divergence)
    values = []
    for row, total in zip(members, sums.tolist(), strict=True):
        if total != total or total == float("inf"):
            raise RequestError(f"logits on generic row {row.id} are not finite: the weights of a model are broken")
        # Rounding can take a divergence of equal distributions below zero.
        values.append(max(0.0, total / (len(row.input_ids) - row.n_prompt)))
    return values
