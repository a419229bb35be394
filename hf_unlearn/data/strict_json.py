"""JSON of rows, read strictly: what could be read in two ways is refused.

Messages name a place and never what stands there: it may be text to be forgotten.
"""

from __future__ import annotations

import json
import re
from typing import Any

_PLACES = re.compile(r"( starting)? at$|: $")
"""How some of Python's messages end, which go on with the place; it is told otherwise here."""
_LONGEST_NUMBER = 400  # digits; no float has more before its point, and Python refuses some thousands


class FaultyJson(ValueError):
    """A text that is no JSON value, or no unambiguous one.

    Attributes:
        reason: What is wrong, in a few words.
        position: Where, as an index into the text.
    """

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.reason, self.position = reason, position


def read_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at ``start``, and where it ends.

    Raises:
        FaultyJson: It is not JSON, an object in it has a key twice, it is nested too deeply, a number has too many
            digits, or a string holds half of a character (a lone surrogate), which no file can be written with.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
        if "\\u" in text[start:end]:
            _refuse_half_characters(value)
        return value, end
    except json.JSONDecodeError as error:
        raise FaultyJson(_PLACES.sub("", error.msg), error.pos) from error
    except RecursionError as error:
        raise FaultyJson("Nested too deeply", start) from error
    except FaultyJson as error:
        raise FaultyJson(error.reason, start) from None


def read_only_value(text: str) -> Any:
    """The JSON value that is the whole of a text, but for white space around it.

    Raises:
        FaultyJson: See :func:`read_value`, or something follows the value.
    """
    start = len(text) - len(text.lstrip())
    value, end = read_value(text, start)
    if text[end:].strip():
        raise FaultyJson("Something follows the value", end)
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words: ``a number``."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    named = ((str, "a text"), (int | float, "a number"), (list, "a list"), (dict, "an object"))
    return next((words for kind, words in named if isinstance(value, kind)), f"of type {type(value).__name__}")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise FaultyJson("A key stands twice in one object", 0)
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise FaultyJson(f"A number has more than {_LONGEST_NUMBER} digits", 0)
    return int(digits)


def _refuse_half_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FaultyJson("A string holds half of a character, a lone surrogate", 0) from error


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_int=_whole_number)
