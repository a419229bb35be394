"""Answers that are made to begin with given words, of which only what follows is scored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..data.encoding import EncodedRow, TextFormat, encode_answer
from ..data.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_led(
    row: Example, answer: str, lead: str, tokenizer: PreTrainedTokenizerBase, fmt: TextFormat
) -> EncodedRow:
    """The row's prompt, the lead, and an answer, of which only the answer's tokens are labels.

    The lead stands where the answer would: after the separator, or in a conversation at the start of the assistant's
    message. A token that reaches across the border of lead and answer counts as the answer's, as everywhere.

    Args:
        row: Its prompt is asked; its own answer is not read.
        answer: What is scored.
        lead: What comes before it, without white space around it.
        tokenizer: The model's tokenizer.
        fmt: How prompt and answer become one text.

    Raises:
        RequestError: See :func:`~hf_unlearn.data.encoding.encode_row`.
    """
    bare = answer.lstrip()
    space = answer[: len(answer) - len(bare)]
    begun = encode_answer(row, space + lead, tokenizer, fmt)
    whole = encode_answer(row, f"{space}{lead}{space or ' '}{bare}", tokenizer, fmt)
    same = 0
    for one, other in zip(begun.input_ids, whole.input_ids, strict=False):
        if one != other:
            break
        same += 1
    # The answer has a token of its own, also where a chat template writes the lead as it writes lead and answer.
    return replace(whole, n_prompt=max(whole.n_prompt, min(same, len(whole.input_ids) - 1)))
