"""One teacher-forced pass over all rows and their options. Every likelihood metric is made from what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..data.encoding import EncodedRow, TextFormat, encode_answer, encode_row
from ..data.example import Example
from ..errors import RequestError
from .logits import Batch, SelectedLogits, length_batches
from .records import ScoredRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LabelScores(NamedTuple):
    """Scores of the labels of one encoded row.

    Attributes:
        logps: Log-probability (nats) of each label given all tokens before it.
        hits: Whether each label was the most likely token.
    """

    logps: tuple[float, ...]
    hits: tuple[bool, ...]


def score_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, Sequence[Example]],
    fmt: TextFormat,
    *,
    batch_tokens: int = 4096,
) -> list[ScoredRow]:
    """Score rows and their options by teacher forcing.

    Args:
        model: In eval mode, quantized or not.
        tokenizer: The model's tokenizer.
        sets: Rows by set name.
        fmt: How prompt and answer become one text.
        batch_tokens: Tokens per forward, padding included.

    Returns:
        One record per row, in the order of ``sets`` and of their rows, without metric values.

    Raises:
        RequestError: A row has an empty answer or option, its options lack the answer, it is longer than the model's
            context, or the model's logits on it are not finite. The message names the row.
    """
    rows = [(name, row) for name, members in sets.items() for row in members]
    known: dict[tuple[object, ...], EncodedRow] = {}

    def encode(row: Example, answer: str) -> EncodedRow:
        """Rows that differ only in their options share prompts and answers."""
        key = (row.turns, row.conversational, row.prompt, answer)
        if key not in known:
            whole = answer == row.answer
            known[key] = (
                encode_row(row, tokenizer, fmt, eos=False) if whole else encode_answer(row, answer, tokenizer, fmt)
            )
        return known[key]

    encoded = [encode(row, answer) for _, row in rows for answer in (row.answer, *row.choices)]
    origins = {row.id: row.origin or row.id for _, row in rows}
    scores = iter(score_labels(model, encoded, batch_tokens=batch_tokens, origins=origins))
    records = []
    for name, row in rows:
        answer_scores = next(scores)
        options = [next(scores) for _ in row.choices]
        records.append(
            ScoredRow(
                id=row.id,
                fact=row.fact,
                group=row.group,
                set=name,
                logps=answer_scores.logps,
                hits=answer_scores.hits,
                choice_logps=tuple(sum(option.logps) for option in options),
                choice_lengths=tuple(len(option.logps) for option in options),
                right_choice=_right_choice(row),
                answer=row.answer,
            )
        )
    return records


def score_labels(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    *,
    batch_tokens: int = 4096,
    origins: Mapping[str, str] | None = None,
) -> list[LabelScores]:
    """Scores of the labels of encoded rows, in order.

    What predicts the last label is everything before it, so the last token is never fed. Rows that then feed the same
    tokens are run once: options of one token after the same prompt all come from that prompt's last position.

    Args:
        model: In eval mode.
        rows: Encoded rows.
        batch_tokens: Tokens per forward, padding included.
        origins: Row id to the file and line it came from, for messages.

    Raises:
        RequestError: A row is longer than the model's context, or the model's logits on it are not finite.
    """
    check_lengths(model, rows, origins or {})
    readers: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        readers.setdefault(row.input_ids[:-1], []).append(index)
    inputs = list(readers)
    scores: dict[int, LabelScores] = {}
    if not rows:
        return []
    with torch.inference_mode():
        logits = SelectedLogits(model)
        for batch in length_batches(inputs, batch_tokens, logits.device):
            read_by = [readers[inputs[member]] for member in batch.members]
            _score_batch(logits, batch, read_by, rows, scores)
    return [scores[index] for index in range(len(rows))]


def check_lengths(model: PreTrainedModel, rows: Sequence[EncodedRow], origins: Mapping[str, str]) -> None:
    """Raise :class:`RequestError` for the first row that the model's context cannot hold."""
    limit = context_length(model)
    for row in rows:
        if limit is not None and len(row.input_ids) > limit:
            raise RequestError(
                f"{origins.get(row.id, row.id)}: prompt and answer have {len(row.input_ids)} tokens, more than the "
                f"{limit} of the model: shorten the row or take it out"
            )


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens the model takes, or ``None`` if its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _score_batch(
    logits: SelectedLogits,
    batch: Batch,
    read_by: Sequence[Sequence[int]],
    rows: Sequence[EncodedRow],
    scores: dict[int, LabelScores],
) -> None:
    """Put the scores of all rows that read from this batch into ``scores``."""
    slots: dict[tuple[int, int], int] = {}  # a place in the batch (row, position) to its index among the chosen ones
    labels: list[int] = []
    places: list[int] = []
    for place, readers in enumerate(read_by):
        for reader in readers:
            row = rows[reader]
            for position in range(row.n_prompt, len(row.input_ids)):
                places.append(slots.setdefault((place, position - 1), len(slots)))
                labels.append(row.input_ids[position])
    chosen = list(slots)
    label_ids = torch.tensor(labels, device=logits.device)
    where = torch.tensor(places, device=logits.device)
    label_logps = torch.zeros(len(labels), device=logits.device)
    best = torch.zeros(len(chosen), dtype=torch.long, device=logits.device)
    for part, values in logits.chunks(batch, [row for row, _ in chosen], [position for _, position in chosen]):
        logps = values.log_softmax(-1)
        best[part] = values.argmax(-1)
        here = (where >= part.start) & (where < part.stop)
        label_logps[here] = logps[where[here] - part.start, label_ids[here]]
    found = label_logps.tolist()
    hits = (best[where] == label_ids).tolist()
    finite = label_logps.isfinite().tolist()
    start = 0
    for readers in read_by:
        for reader in readers:
            end = start + len(rows[reader].input_ids) - rows[reader].n_prompt
            if not all(finite[start:end]):
                raise RequestError(
                    f"the model's logits on row {rows[reader].id} are not finite: its weights are broken, or its "
                    "dtype is too small for it"
                )
            scores[reader] = LabelScores(tuple(found[start:end]), tuple(hits[start:end]))
            start = end


def _right_choice(row: Example) -> int:
    if not row.choices:
        return -1
    if row.answer not in row.choices:
        raise RequestError(f"{row.origin or row.id}: the answer is not among the choices: add it to them")
    return row.choices.index(row.answer)
