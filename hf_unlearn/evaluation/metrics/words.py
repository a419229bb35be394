"""Words of a text in any script, for ROUGE."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

# Scripts written without spaces: Thai, Lao, Myanmar, Khmer, kana, Han. Each letter counts as a word there.
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_LATIN_WORD = re.compile("[a-z0-9]+")


class WordTokenizer:
    """Words for ROUGE in any script; for plain English the same as rouge_score's own.

    A word is a run of letters, digits and the marks that belong to them (vowel signs, accents), lower-cased, in
    composed form (NFC). In scripts without spaces every letter is a word. rouge_score's own tokenizer knows
    ``a`` to ``z`` and digits only: of an answer in Arabic, Hindi or Chinese it finds nothing.

    Args:
        stem: Reduce English words of more than three letters to their stems (Porter), as rouge_score can.
    """

    def __init__(self, stem: bool = False) -> None:
        self._stem = stem

    def tokenize(self, text: str) -> list[str]:
        """Words in order."""
        words = _words(text.lower())
        return [_stemmer().stem(word) if len(word) > 3 else word for word in words] if self._stem else words


def _words(text: str) -> list[str]:
    if text.isascii():
        return _LATIN_WORD.findall(text)
    words: list[str] = []
    inside = alone = False  # whether a mark belongs to the last word; whether that word takes no further letters
    for char in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(char)[0]
        if kind in "LN":
            spaceless = _SPACELESS.match(char) is not None
            if inside and not alone and not spaceless:
                words[-1] += char
            else:
                words.append(char)
            inside, alone = True, spaceless
        elif kind == "M" and inside:
            words[-1] += char
        else:
            inside = alone = False
    return words


@functools.cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
