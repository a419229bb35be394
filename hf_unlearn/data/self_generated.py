"""Texts that a model writes by itself, without those that touch what is to be forgotten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from ..errors import RequestError
from .example import Example
from .general_starts import GENERAL_STARTS
from .overlap import row_parts, runs, words

ORDINARY_SHARE = 0.2
ORDINARY_GROUPS = 5
"""A word that is in this share of another set's groups, and in so many of them, does not say whom a text is about."""


@dataclass(frozen=True)
class DrawSpec:
    """What the target is to write; :func:`without_forgotten` decides which of it is used.

    Attributes:
        texts: How many texts are drawn.
        starts: Beginnings of the texts, used in turn. An empty one lets the model choose the first words too, which
            needs a token that texts begin with. ``general`` stands for over a hundred beginnings of ordinary sentences
            (``hf_unlearn/data/general_starts.py``), for models that know more than one subject.
        max_new_tokens: Longest continuation in tokens.
        temperature: Divides the logits. Below 1, because a model makes up what it is not sure of, also from parts of
            what it should forget.
        avoid_words: A text is left out if it contains this many consecutive words of the forget set, none of them
            ordinary. 2 finds first and last names; for single telling words use 1.
        avoid: Further words or phrases; a text that contains one is left out.
        ordinary: Words that do not say whom a text is about, in addition to those that kept sets show to be ordinary:
            list the words of the sentences that state facts if no facts of the same kind are kept.
        seed: Seed of the draws.
    """

    texts: int = 2000
    starts: Literal["general"] | tuple[str, ...] = ("",)
    max_new_tokens: int = 64
    temperature: float = 0.5
    avoid_words: int = 2
    avoid: tuple[str, ...] = ()
    ordinary: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("texts", "max_new_tokens", "avoid_words"):
            if getattr(self, name) < 1:
                raise RequestError(f"data.keep_drawn.{name} is {getattr(self, name)}: it must be at least 1")
        if not self.temperature > 0:
            raise RequestError(f"data.keep_drawn.temperature is {self.temperature}: it must be above 0")
        if not self.starts:
            raise RequestError('data.keep_drawn.starts is empty: name what texts begin with, or use general or [""]')

    @property
    def beginnings(self) -> tuple[str, ...]:
        """Of the texts, used in turn."""
        return GENERAL_STARTS if self.starts == "general" else tuple(self.starts)


@dataclass(frozen=True)
class Sifted:
    """Drawn texts after filtering.

    Attributes:
        texts: Those that can be used.
        different: How many different texts were drawn.
        touching: How many of them share words with the forget set.
    """

    texts: tuple[str, ...]
    different: int
    touching: int


def without_forgotten(
    texts: Iterable[str],
    forget: Iterable[Example],
    others: Iterable[Sequence[Example]],
    spec: DrawSpec,
) -> Sifted:
    """Leave out drawn texts that touch the forget set.

    A run of words within a forget row's prompt or within its answer marks a text, unless one of the words is ordinary:
    it is in many groups of another set (:data:`ORDINARY_SHARE`, :data:`ORDINARY_GROUPS`), or it is
    listed as ordinary. So first and last name together say who is meant, while "was born", "the year" and "of Ada" do
    not. How often the target itself uses a word is ignored: it may write about little except what it is to forget.
    Words are compared without regard to case and punctuation. Ordinary text shows which words are ordinary even if it
    is not kept: with ``avoid_words: 1`` the *and* in the name of a country would otherwise mark most texts.

    Args:
        texts: What a model wrote; repetitions and empty ones are dropped.
        forget: The forget set, with all that its rows say.
        others: Sets of rows that tell nothing of the forget set: those that are kept besides the texts, and ordinary
            text.
        spec: How many words in a row mark a text, what else marks one, and which words are ordinary.
    """
    different = list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))
    named = (word for text in spec.ordinary for word in words(text))
    ordinary = set(named).union(*(_ordinary_words(rows) for rows in others))
    parts = [words(part) for row in forget for part in row_parts(row)]
    marks = {run for part in parts for run in runs(part, spec.avoid_words) if ordinary.isdisjoint(run)}
    marks |= {tuple(found) for text in spec.avoid if (found := words(text))}
    sizes = sorted({len(mark) for mark in marks})
    left = [text for text in different if _untouched(words(text), sizes, marks)]
    return Sifted(tuple(left), len(different), len(different) - len(left))


def _ordinary_words(rows: Sequence[Example]) -> set[str]:
    held: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for part in row_parts(row):
            for word in words(part):
                held[word].add(row.group)
    least = max(ORDINARY_GROUPS, ORDINARY_SHARE * len({row.group for row in rows}))
    return {word for word, groups in held.items() if len(groups) >= least}


def _untouched(found: Sequence[str], sizes: Iterable[int], marks: Set[tuple[str, ...]]) -> bool:
    return all(marks.isdisjoint(runs(found, size)) for size in sizes)
