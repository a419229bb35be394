"""Nothing that is published may say what was to be forgotten.

The forget set is known here as keyed hashes of runs of words only, so it can be kept next to a finished run and
still be found in what is about to be published, even if the data files have moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.overlap import as_seen
from .files import is_text, is_vocabulary

RULE = 2
"""How texts are cut into words, to which hashes belong. 1 took them as they are written, underscores for letters."""

_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_WORD_OF_RULE_1 = re.compile(r"\w+", re.UNICODE)
_TAG = re.compile(r"<[^>]*>")
_LONGEST = 13
_SHORTEST = 4
_BREAK = "\0"
Hashes = npt.NDArray[np.uint64]


class ForgetText:
    """Finds forget text in documents: 13 words in a row, or a whole shorter row or answer of at least four words.

    Case, punctuation, line breaks, Unicode form, HTML entities and characters that are not seen do not matter. Answers
    of one to three words (a year, a name) are found only together with their prompt: alone they would be found in any
    table of numbers.

    A word's hash is BLAKE2b under a secret key, 64 bits; that of a run is a polynomial in those of its words, modulo
    2**64, at a secret odd point. With fewer than 10**6 runs on both sides, a hit by chance is rarer than 1 in 10**7.

    Args:
        rows: Prompt and answer of each forget row.
        salt: The key, 32 bytes; a new one by default.
    """

    def __init__(self, rows: Iterable[tuple[str, str]], salt: bytes | None = None) -> None:
        self.salt = salt or secrets.token_bytes(32)
        self.rule = RULE
        self._known: dict[str, int] = {}
        self._base = int.from_bytes(hashlib.blake2b(b"base", key=self.salt, digest_size=8).digest(), "big") | 1
        found: dict[int, dict[int, int]] = {}
        for number, (prompt, answer) in enumerate(rows):
            for text in (answer, f"{prompt} {answer}"):
                words = _words(text)
                if len(words) >= _SHORTEST:
                    length = min(len(words), _LONGEST)
                    for run in self._runs(self._hashes(words), length).tolist():
                        found.setdefault(length, {}).setdefault(run, number)
        self._runs_of = {length: _sorted(runs) for length, runs in found.items()}

    @property
    def empty(self) -> bool:
        """Whether there is nothing to find."""
        return not self._runs_of

    def find(self, document: str) -> int | None:
        """Number (from 0) of a forget row that is in a document, or ``None``.

        Args:
            document: Any text.
        """
        return self._find(_words(document, self.rule))

    def find_in_pieces(self, pieces: Iterable[str]) -> int | None:
        """The same for texts that are separate, such as the tokens of a vocabulary.

        Args:
            pieces: The texts.
        """
        words: list[str] = []
        for piece in pieces:
            # A run of four words has at least three breaks.
            if len(piece) > 2 * _SHORTEST - 2:
                own = _words(piece, self.rule)
                if len(own) >= _SHORTEST:
                    words += [*own, _BREAK]
        return self._find(words)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without a word of the rows. It allows testing guesses: protect it like the data."""
        runs = {
            str(length): {"hashes": hashes.astype(">u8").tobytes().hex(), "rows": rows.tolist()}
            for length, (hashes, rows) in self._runs_of.items()
        }
        return {"salt": self.salt.hex(), "rule": self.rule, "runs": runs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ForgetText:
        """Reads what :meth:`to_dict` returned.

        Raises:
            ValueError, KeyError, TypeError: It is something else.
        """
        made = cls((), bytes.fromhex(data["salt"]))
        made.rule = int(data.get("rule", 1))
        if not 1 <= made.rule <= RULE:
            raise ValueError("made by a later version")
        for length, runs in data["runs"].items():
            hashes = np.frombuffer(bytes.fromhex(runs["hashes"]), dtype=">u8").astype(np.uint64)
            rows = np.array(runs["rows"], dtype=np.int64)
            if len(hashes) != len(rows):
                raise ValueError("as many hashes as rows")
            made._runs_of[int(length)] = (hashes, rows)
        return made

    def _find(self, words: Sequence[str]) -> int | None:
        hashes = self._hashes(words)
        for length, (known, rows) in self._runs_of.items():
            runs = self._runs(hashes, length)
            if not len(runs):
                continue
            places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
            hits = np.flatnonzero(known[places] == runs)
            if len(hits):
                return int(rows[places[hits[0]]])
        return None

    def _hashes(self, words: Sequence[str]) -> Hashes:
        known = self._known
        for word in set(words) - known.keys():
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), key=self.salt, digest_size=8).digest()
            known[word] = int.from_bytes(digest, "big")
        return np.array([known[word] for word in words], dtype=np.uint64)

    def _runs(self, hashes: Hashes, length: int) -> Hashes:
        """Hashes of all runs of ``length`` words. Overflow is intended: numbers are modulo 2**64."""
        count = len(hashes) - length + 1
        total: Hashes = np.zeros(max(count, 0), dtype=np.uint64)
        if count < 1:
            return total
        base = np.array(self._base, dtype=np.uint64)
        for start in range(length):
            total *= base
            total += hashes[start : start + count]
        return total


def find_in_file(path: Path, name: str, forget: ForgetText) -> int | None:
    """Number of a forget row that is in a file, or ``None``.

    Prose (cards, configurations, templates, pages, plots as SVG) is read as one text; pages and plots also without
    their tags. In a vocabulary each token is read alone: neighbours in it are neighbours by chance. In safetensors the
    free-form metadata is read. Other binary files are not read.

    Args:
        path: The file.
        name: Its path within the published folder.
        forget: What to look for.
    """
    if name.endswith(".safetensors"):
        return forget.find(_safetensors_metadata(path))
    if is_vocabulary(name):
        text = path.read_text(encoding="utf-8", errors="replace")
        return forget.find_in_pieces(_pieces(json.loads(text)) if name.endswith(".json") else text.splitlines())
    text = path.read_text(encoding="utf-8", errors="replace") if is_text(name) else ""
    if name.endswith(".json"):
        # As a reader of the JSON sees it: escapes undone, texts, numbers and keys in their order.
        with contextlib.suppress(ValueError):
            text = "\n".join(_pieces(json.loads(text)))
    if name.endswith((".html", ".svg")):
        # As a reader of the page sees it, then with what only its source holds.
        row = forget.find(_TAG.sub(" ", text))
        return forget.find(text) if row is None else row
    return forget.find(text)


def _pieces(value: Any) -> list[str]:
    """All texts and numbers in a JSON value in their order, keys too."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                found.append(key)
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, (int, float)):
            found.append(str(value))

    walk(value)
    return found


def _safetensors_metadata(path: Path) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 100_000_000:  # the format's own limit
            return ""
        try:
            return "\n".join(_pieces(json.loads(file.read(length)).get("__metadata__", {})))
        except (ValueError, AttributeError):
            return ""


def _sorted(runs: Mapping[int, int]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    hashes = np.fromiter(runs.keys(), dtype=np.uint64, count=len(runs))
    rows = np.fromiter(runs.values(), dtype=np.int64, count=len(runs))
    order = np.argsort(hashes)
    return hashes[order], rows[order]


def _words(text: str, rule: int = RULE) -> list[str]:
    if rule == 1:
        return _WORD_OF_RULE_1.findall(text.casefold())
    seen = as_seen(text)
    if not seen.isascii():  # marks that are part of no letter, such as a stroke through each
        seen = "".join(letter for letter in seen if unicodedata.category(letter) not in ("Mn", "Me"))
    return _WORD.findall(seen)
