"""Facts that reveal something about each other although they were given different groups.

An attack that trains on some facts and asks for others proves nothing if the first reveal the second. Data that
people collect has such pairs: the same question twice, two questions about one person, a sentence copied into another
row. They are found here by what the texts share, and their groups are put together, so that a split never separates
them. Only counts are ever reported: what was shared is text to be forgotten.

What counts as shared, compared without regard to case, spaces and Unicode form:

- the same prompt and answer, or the same plain text;
- the same prompt with another answer (two people of one name), unless more than a fifth of all groups share it;
- a name: two or more capitalized words in a row. A name that more than a fifth of all groups share says nothing
  (``United States``), and neither do the words that open a sentence;
- eight words in a row, numbers taken as equal, at least four of them words that few groups contain: the others are how
  the data is written, not what it says.

For rows with a prompt only the prompt is compared: two people born in the same year share nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .checks import content_key
from .example import Example

NGRAM = 8
TELLING_WORDS = 4
COMMON_NAMES = 0.2
COMMON_WORDS = 0.05

_NAME = re.compile(r"[A-Z][\w’'-]+(?: [A-Z][\w’'-]+)+")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
_POSSESSIVE = re.compile(r"[’']s?$")
_OPENERS = frozenset(
    "A An And Are As At By Can Could Did Do Does During For From Has Have How If In Is It Of On Or Our The Their "
    "This To Was Were What When Where Which Who Whom Whose Why Will With Would".split()
)


@dataclass(frozen=True)
class Leaks:
    """Which groups belong together.

    Attributes:
        groups: Number of groups as they were given.
        component: Group to the set it belongs to, named by its first group in alphabetical order.
        same_text: Groups that share a prompt or a whole text with another one.
        same_name: Groups that share a name with another one.
        same_words: Groups that share eight words in a row with another one.
    """

    groups: int
    component: Mapping[str, str]
    same_text: int
    same_name: int
    same_words: int

    def counts(self) -> dict[str, int]:
        """Plain data for the report; never texts."""
        sizes: dict[str, int] = defaultdict(int)
        for component in self.component.values():
            sizes[component] += 1
        return {
            "groups": self.groups,
            "independent_groups": len(sizes),
            "largest": max(sizes.values(), default=0),
            "sharing_a_text": self.same_text,
            "sharing_a_name": self.same_name,
            "sharing_words": self.same_words,
        }

    def reach(self, groups: Collection[str]) -> frozenset[str]:
        """These groups and all that belong together with one of them."""
        wanted = {self.component[group] for group in groups}
        return frozenset(group for group, component in self.component.items() if component in wanted)


def find_leaks(rows: Iterable[Example]) -> Leaks:
    """Find the groups that reveal something about each other.

    Args:
        rows: Everything that is trained on or asked for. The order does not matter.
    """
    rows = list(dict.fromkeys(rows))
    groups = sorted({row.group for row in rows})
    by_content = _holders(rows, lambda row: [content_key(row)])
    by_prompt = _holders(rows, _prompts)
    by_name = _holders(rows, _names)
    by_run = _holders(rows, _telling_runs(rows, len(groups)))
    names = _most(COMMON_NAMES, len(groups), 3)
    shared = [
        [*_shared(by_content, len(groups)), *_shared(by_prompt, names)],
        _shared(by_name, names),
        _shared(by_run, _most(COMMON_WORDS, len(groups), 2)),
    ]
    counts = [len(frozenset().union(*kind)) for kind in shared]
    return Leaks(len(groups), _components(groups, [held for kind in shared for held in kind]), *counts)


def overlapping(trained: Sequence[Example], asked: Sequence[Example]) -> int:
    """How many rows that are asked for are trained on verbatim (prompt and answer)."""
    known = {content_key(row) for row in trained}
    return sum(content_key(row) in known for row in asked)


def _holders(rows: Sequence[Example], parts: Callable[[Example], Iterable[Hashable]]) -> list[frozenset[str]]:
    """For each part of any row, the groups that contain it."""
    return [frozenset(held) for held in _held(rows, parts).values()]


def _held(rows: Sequence[Example], parts: Callable[[Example], Iterable[Hashable]]) -> dict[Hashable, set[str]]:
    found: dict[Hashable, set[str]] = defaultdict(set)
    for row in rows:
        for part in parts(row):
            found[part].add(row.group)
    return found


def _most(share: float, groups: int, least: int) -> int:
    """How many groups may share something before it counts as common; in a small set a few are a large part of it."""
    return max(least, int(share * groups))


def _shared(holders: Iterable[frozenset[str]], most: int) -> list[frozenset[str]]:
    return [held for held in holders if 1 < len(held) <= most]


def _prompts(row: Example) -> Iterator[tuple[str, ...]]:
    if row.prompt:
        yield content_key(row)[:-1]


def _names(row: Example) -> Iterator[str]:
    for match in _NAME.finditer(row.prompt or row.answer):
        words = [_POSSESSIVE.sub("", word) for word in match.group().split()]
        while words and words[0] in _OPENERS:
            words = words[1:]
        if len(words) > 1:
            yield " ".join(words).casefold()


def _words(row: Example) -> list[str]:
    return _WORD.findall(_NUMBER.sub("0", (row.prompt or row.answer).casefold()))


def _telling_runs(rows: Sequence[Example], groups: int) -> Callable[[Example], Iterator[tuple[str, ...]]]:
    """A function that gives the informative runs of a row."""
    common = {word for word, held in _held(rows, _words).items() if len(held) > _most(COMMON_WORDS, groups, 2)}

    def runs(row: Example) -> Iterator[tuple[str, ...]]:
        words = _words(row)
        for start in range(len(words) - NGRAM + 1):
            run = tuple(words[start : start + NGRAM])
            if sum(word not in common for word in run) >= TELLING_WORDS:
                yield run

    return runs


def _components(groups: Sequence[str], together: Iterable[frozenset[str]]) -> dict[str, str]:
    """Union-find; a component is named by its least member, so the order of rows does not matter."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for held in together:
        roots = sorted({root(group) for group in held})
        for other in roots[1:]:
            parent[other] = roots[0]
    return {group: root(group) for group in groups}
