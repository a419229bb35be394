"""Ordinary text: how well a model predicts it, how far it moved from the target there, and whether it still writes."""

from __future__ import annotations

import math
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
    """Records of the generic set with the values ``nll``, ``kl_to_target`` and ``fluency``.

    ``nll`` is the negative log-likelihood of the text and ``kl_to_target`` is ``KL(reference || model)`` over the next
    token, both averaged over the row's labels (nats per token). ``fluency`` is
    :func:`~hf_unlearn.evaluation.metrics.text.text_entropy` of the greedy continuation of the row's first third (at
    most 16 tokens after the tokenizer's own).

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
    found = _text_scores(model, reference, encoded, passes)
    prompts = [
        Prompt(prefix(row), f"generic row {source.origin or source.id}", max_new_tokens)
        for source, row in zip(rows, encoded, strict=True)
    ]
    texts = generate(model, tokenizer, prompts, passes, name="generic generation")
    records = []
    for row, scores, text in zip(rows, found, texts, strict=True):
        values = {"fluency": text_entropy(text), **scores}
        records.append(ScoredRow(row.id, row.fact, row.group, GENERIC_SET, generated=text, values=values))
    return records


def _text_scores(
    model: PreTrainedModel, reference: PreTrainedModel | None, rows: Sequence[EncodedRow], passes: Passes
) -> list[dict[str, float]]:
    """``nll`` and, with a reference, ``kl_to_target`` of each row, in nats per label.

    Raises:
        RequestError: The vocabularies differ, or logits are not finite.
    """
    if not rows:
        return []
    ours, theirs = SelectedLogits(model), None
    if reference is not None and reference is not model:
        sizes = [item.config.get_text_config().vocab_size for item in (reference, model)]
        if sizes[0] != sizes[1]:
            raise RequestError(f"the target has {sizes[0]} tokens and this model {sizes[1]}: their KL is not defined")
        theirs = SelectedLogits(reference)
    fed = [row.input_ids[:-1] for row in rows]

    def work(members: Sequence[int]) -> list[list[float]]:
        batch = padded_batch([fed[member] for member in members], ours.device)
        return _scores_of_batch(ours, theirs, batch, [rows[member] for member in members])

    with torch.inference_mode():
        found = passes.run("generic text", [len(ids) for ids in fed], work)
    return [{"nll": nll} | ({} if reference is None else {"kl_to_target": kl}) for nll, kl in found]


def prefix(row: EncodedRow) -> tuple[int, ...]:
    """What a generic row's continuation starts from: what the tokenizer puts first and a third of the rest."""
    labels = len(row.input_ids) - row.n_prompt
    return row.input_ids[: row.n_prompt + min(labels // 3, _LONGEST_PREFIX)]


def _scores_of_batch(
    ours: SelectedLogits, theirs: SelectedLogits | None, batch: Batch, members: Sequence[EncodedRow]
) -> list[list[float]]:
    """Negative log-likelihood and KL of each row, in nats per label; the KL is 0 where there is no other model."""
    places, positions, labels = [], [], []
    for place, row in enumerate(members):
        for position in range(row.n_prompt - 1, len(row.input_ids) - 1):
            places.append(place)
            positions.append(position)
            labels.append(row.input_ids[position + 1])
    sums = torch.zeros(len(members), 2, dtype=torch.float64, device=ours.device)
    others = None if theirs is None else theirs.chunks(batch, places, positions)
    for part, our_logits in ours.chunks(batch, places, positions):
        logq = our_logits.log_softmax(-1)
        right = torch.tensor(labels[part], device=logq.device)[:, None]
        found = torch.zeros(len(right), 2, dtype=torch.float64, device=logq.device)
        found[:, 0] = -logq.gather(-1, right)[:, 0].double()
        if others is not None:
            logp = next(others)[1].log_softmax(-1)
            found[:, 1] = (logp.exp() * (logp - logq)).sum(-1).double()
        sums.index_add_(0, torch.tensor(places[part], device=ours.device), found)
    values = []
    for row, (nll, kl) in zip(members, sums.tolist(), strict=True):
        if not (math.isfinite(nll) and math.isfinite(kl)):
            raise RequestError(f"logits on generic row {row.id} are not finite: the weights of a model are broken")
        count = len(row.input_ids) - row.n_prompt
        # Rounding can take a divergence of equal distributions below zero.
        values.append([nll / count, max(0.0, kl / count)])
    return values
