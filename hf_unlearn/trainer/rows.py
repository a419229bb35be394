"""A data set as it is given to the trainer, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from transformers import PreTrainedTokenizerBase

from ..data.encoding import EncodedRow, TextFormat, check_tokenizer, encode_rows
from ..data.example import Example
from ..data.sources import rows_from_records
from ..errors import RequestError
from .config import UnlearnConfig

if TYPE_CHECKING:
    import datasets


def encode_dataset(
    dataset: datasets.Dataset | Sequence[Example],
    set_name: str,
    tokenizer: PreTrainedTokenizerBase,
    text_format: TextFormat,
    args: UnlearnConfig,
) -> list[EncodedRow]:
    """Encodes a data set, with the end of each answer as a label.

    Args:
        dataset: Rows, or records of one of the data set types of TRL.
        set_name: ``forget`` or ``retain``.
        tokenizer: The model's tokenizer.
        text_format: How prompt and answer become one text.
        args: ``max_length``, ``truncation`` and ``completion_only_loss`` are used.

    Raises:
        RequestError: If there are no rows, or one cannot be used.
    """
    given = list(dataset)
    rows = [row for row in given if isinstance(row, Example)]
    if len(rows) < len(given):
        rows = list(rows_from_records(given, set_name, f"{set_name}_dataset"))
    if not rows:
        raise RequestError(f"the {set_name} set has no rows: {set_name}_dataset needs at least one")
    check_tokenizer(tokenizer, text_format, rows)
    truncation = cast(Literal["refuse", "cut"], args.truncation)
    encoded = encode_rows(rows, tokenizer, text_format, eos=True, max_length=args.max_length, truncation=truncation)
    return encoded if args.completion_only_loss else [replace(row, n_prompt=1) for row in encoded]
