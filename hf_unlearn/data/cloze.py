"""Facts of a text, asked without a model: a sentence that is cut before a date, a number or a name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .counterparts import begins_as_name
from .overlap import runs, words

LEAST_BEFORE = 4
"""So many words must come before the answer, or nothing says what is asked."""

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = rf"\d{{1,2}} {_MONTH}(?: \d{{4}})?|{_MONTH} \d{{1,2}}, \d{{4}}|{_MONTH} \d{{4}}"
_NUMBER = r"\d+(?:[.,]\d+)*(?: ?%| (?:percent|million|billion|thousand))?"
# In Latin letters; of other scripts the first letter decides below.
_WORD = r"[^\W\d_a-z\u00df-\u00f6\u00f8-\u00ff][^\W_]*(?:['\u2019-][^\W_]+)*"
_NAME = rf"{_WORD}(?: (?:(?:of|de|da|di|du|la|le|van|von|der|the) ){{0,2}}{_WORD})*"
_TAIL = re.compile(rf"(?<![\w.-])(?:{_DATE}|{_NUMBER}|{_NAME})(?![\w-])")
# A sentence that begins so says of whom or what it speaks only together with the one before it.
_UNCLEAR = frozenset(
    "he she it they we you i this that these those his her hers its their theirs our your my there here then such "
    "both another others one some most many however but and so also".split()
)


@dataclass(frozen=True)
class ClozeFact:
    """A sentence to go on with.

    Attributes:
        prompt: The sentence up to the answer, without a space at its end.
        answer: A date, number or name.
        sentence: The whole sentence.
    """

    prompt: str
    answer: str
    sentence: str


def cloze_fact(sentence: str) -> ClozeFact | None:
    """A sentence cut before its last date, number or name; ``None`` if it cannot stand alone or has none.

    What the sentence said before is no answer, and the first words of a sentence are none: a capital letter makes no
    name there.
    """
    said = words(sentence)
    if not said or said[0] in _UNCLEAR:
        return None
    for found in reversed(list(_TAIL.finditer(sentence))):
        prompt, answer = sentence[: found.start()].rstrip(), found[0]
        before, asked = words(prompt), words(answer)
        if len(before) < LEAST_BEFORE or prompt[-1:] in "\"'(\u201c\u2018":
            continue
        if not (answer[0].isdigit() or answer[-1].isdigit() or begins_as_name(answer)):
            continue
        if tuple(asked) not in set(runs(before, len(asked))):
            return ClozeFact(prompt, answer, sentence)
    return None
