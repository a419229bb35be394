"""Texts that were tokenized a moment ago: an attack asks the same rows after every epoch, a run those of every model.

What one tokenizer made of texts is kept until another one, or another way of writing rows, is asked. Two tokenizers
are the same if they have the same content; the folders of a run hold copies of one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..data.encoding import EncodedRow, TextFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Known = dict[tuple[object, ...], EncodedRow]

MOST_KEPT = 50_000
"""Texts. More are forgotten when they have been scored: they would only take memory."""

_digests: WeakKeyDictionary[PreTrainedTokenizerBase, str] = WeakKeyDictionary()
_last: tuple[object, Known] = (None, {})


def known_texts(tokenizer: PreTrainedTokenizerBase, fmt: TextFormat, prefill: str) -> Known:
    """What is known of texts that this tokenizer encodes in this way, to be added to by who encodes more.

    Args:
        tokenizer: A slow one, whose content cannot be compared, gets nothing that is known before.
        fmt: How prompt and answer become one text.
        prefill: With what every answer begins.
    """
    global _last
    if not tokenizer.is_fast:
        return {}
    key = (*_content(tokenizer), repr(fmt), prefill)
    if _last[0] != key or len(_last[1]) > MOST_KEPT:
        _last = key, {}
    return _last[1]


def _content(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    """All that decides how a text is tokenized. The vocabulary is read once: nothing here changes it."""
    if tokenizer not in _digests:
        text = tokenizer.backend_tokenizer.to_str()
        _digests[tokenizer] = hashlib.sha256(text.encode()).hexdigest()
    return (
        type(tokenizer).__name__,
        _digests[tokenizer],
        len(tokenizer),
        repr(tokenizer.special_tokens_map),
        repr(getattr(tokenizer, "chat_template", None)),
        tuple(tokenizer("a", verbose=False)["input_ids"]),
    )
