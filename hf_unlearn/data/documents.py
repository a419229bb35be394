"""Plain documents that facts are asked from: text files, folders of them, or rows that are nothing but text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError
from .sources import Source, load_source

SUFFIXES = (".txt", ".md")
LONGEST_PASSAGE = 1200
"""Characters of a passage that a model is shown, unless a single sentence is longer."""

_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_EMPHASIS = re.compile(r"(\*\*|__|\*|`)(?=\S)(.+?)(?<=\S)\1")
_HEADING_OR_TABLE = re.compile(r"^\s*(?:#{1,6}\s.*|\|.*\|\s*|[-=*_]{3,}\s*)$", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*+>]|\d{1,3}[.)])\s+", re.MULTILINE)
# A point after these ends no sentence; single capital letters are initials.
_SHORTENED = re.compile(r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|etc|e\.g|i\.e|cf|ca|approx|Inc|Ltd|Co)\.)$")
_END = re.compile(r"[.!?][\"'\u201d\u2019)\]]*(?=\s+[\"'\u201c\u2018(\[]?[^\W_a-z])")


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        text: Without marks of Markdown; paragraphs are separated by empty lines.
        origin: Where it stands, for messages.
    """

    text: str
    origin: str

    def paragraphs(self) -> list[list[str]]:
        """The sentences of each paragraph."""
        parts = (sentences(part) for part in re.split(r"\n\s*\n", self.text))
        return [part for part in parts if part]

    def passages(self) -> list[str]:
        """Parts of at most :data:`LONGEST_PASSAGE` characters, cut between sentences."""
        return list(_packed(sentence for part in self.paragraphs() for sentence in part))


def are_documents(path: Path) -> bool:
    """Whether a path is a folder, a text file, or a file of rows that are nothing but text.

    Raises:
        RequestError: It is a file that cannot be read as rows.
    """
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return True
    return not any(row.prompt for row in load_source(Source(path=str(path)), "forget").score)


def read_documents(path: Path) -> list[Document]:
    """The documents of a text file (one), of a folder (each text file in it) or of a file of rows (each row).

    Raises:
        RequestError: There is no text, or a file is not UTF-8 or cannot be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        found = [_read(file) for file in files]
    elif path.suffix.lower() in SUFFIXES:
        found = [_read(path)]
    else:
        rows = load_source(Source(path=str(path)), "forget").score
        found = [Document(row.answer, row.origin) for row in rows]
    found = [document for document in found if document.text.strip()]
    if not found:
        raise RequestError(f"{path} holds no text: give a folder or a file ending in {' or '.join(SUFFIXES)}")
    return found


def _read(file: Path) -> Document:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    return Document(without_marks(text) if file.suffix.lower() == ".md" else text, str(file))


def without_marks(text: str) -> str:
    """Markdown as running text: no headings, tables and code, and links by their words."""
    text = _HEADING_OR_TABLE.sub("", _FENCE.sub("", text))
    text = _LINK.sub(r"\1", _IMAGE.sub("", _BULLET.sub("\n", text)))
    return _EMPHASIS.sub(r"\2", text)


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph, each on one line.

    Sentences end at ``.``, ``!`` or ``?`` before a word that does not begin with a small letter. Initials and usual
    short forms (``Dr.``) end none.
    """
    line, found, start = " ".join(text.split()), [], 0
    for end in _END.finditer(line):
        if _SHORTENED.search(line[start : end.end()]):
            continue
        found.append(line[start : end.end()].strip())
        start = end.end()
    return [sentence for sentence in (*found, line[start:].strip()) if sentence]


def _packed(parts: Iterable[str]) -> Iterator[str]:
    held = ""
    for part in parts:
        if held and len(held) + 1 + len(part) > LONGEST_PASSAGE:
            yield held
            held = ""
        held = f"{held} {part}".strip()
    if held:
        yield held
