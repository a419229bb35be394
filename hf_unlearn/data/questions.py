"""Questions and answers in what a model writes: lists of questions, pairs with answers, and answers that agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from .overlap import runs, words

LONGEST_QUESTION = 30
LONGEST_ANSWER = 8
"""In words. What is longer is an explanation and not an answer."""
WORDING_SHARE = 0.6
"""Two questions with one answer are wordings of each other if they share so much of their words."""

_LIST_MARK = re.compile(r"^(?:[-*+\u2022]|\(?\d{1,3}[.):]|Q(?:uestion)?\s*\d{0,3}\s*[:.)])\s*", re.IGNORECASE)
_PAIR = re.compile(
    r"(?:^|\n)[^\n]{0,8}?Q(?:uestion)?\s*\d{0,3}\s*[:.)]\W*?(?P<question>[^\n?]+\?)[\s*\"]*"
    r"\n?[^\n]{0,8}?A(?:nswer)?\s*\d{0,3}\s*[:.)]\W*?(?P<answer>[^\n]+)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[^\W\d_]{3})[.!](?:\s|$)")
_ASIDE = re.compile(r",\s|;|\s[(\u2013\u2014-]")
_EDGES = " \t\"'\u201c\u201d\u2018\u2019*_`"
# Words that many questions have, and those of how they are put; they do not say that two of them ask the same.
_COMMON = frozenset(
    "a an the of in on at to for by is was are were did does do what which who whom whose answer few words question "
    "complete sentence".split()
)
_NO_ANSWER = frozenset(
    "unknown unclear unsure sorry none yes no true false various many several it he she they i we there this".split()
)
_NO_ANSWERS = ("not ", "n/a", "i don", "don't know", "the answer is not", "no one", "nobody")
# What a question about a passage says that nobody understands without it.
_PASSAGE_WORDS = frozenset("text passage paragraph article author document sentence excerpt above".split())


def list_items(text: str) -> list[str]:
    """The lines of a list without numbers, bullets and quotes."""
    lines = (_LIST_MARK.sub("", line.strip(_EDGES)).strip(_EDGES) for line in text.splitlines())
    return [line for line in lines if line]


def questions_in(text: str) -> list[str]:
    """The questions of a list, one of each line, without what follows the question mark."""
    found = (item.partition("?")[0].strip() + "?" for item in list_items(text) if "?" in item)
    return [question for question in found if 3 <= len(words(question)) <= LONGEST_QUESTION]


def pairs_in(text: str) -> list[tuple[str, str]]:
    """Questions with their answers, written as ``Q: ...`` and ``A: ...`` (or ``Question``, ``Answer``, numbered)."""
    pairs = []
    for found in _PAIR.finditer(text):
        question, answer = found["question"].strip(_EDGES), short_answer(found["answer"])
        if answer and 3 <= len(words(question)) <= LONGEST_QUESTION:
            pairs.append((question, answer))
    return pairs


def stands_alone(question: str) -> bool:
    """Whether a question about a passage can be understood without it."""
    return _PASSAGE_WORDS.isdisjoint(words(question))


def short_answer(text: str) -> str | None:
    """The first sentence of an answer without quotes and the point at its end; ``None`` if it is none, or long.

    Of a long one the part before its first comma or bracket is taken: what follows explains.
    """
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = _SENTENCE_END.split(line, maxsplit=1)[0].strip(_EDGES).rstrip(".,;:!").strip(_EDGES)
    found = words(line)
    if len(found) > LONGEST_ANSWER:
        line = _ASIDE.split(line, maxsplit=1)[0].strip(_EDGES)
        found = words(line)
    if not found or len(found) > LONGEST_ANSWER or line.endswith("?"):
        return None
    if line.lower().startswith(_NO_ANSWERS) or (found[0] in _NO_ANSWER):
        return None
    if line.count('"') % 2:  # the other one was at an edge
        return f'{line}"' if f'{line}"' in text else line.replace('"', "")
    return line


def says(text: str, answer: str) -> bool:
    """Whether the words of an answer stand in a text, one after the other."""
    asked = words(answer)
    return bool(asked) and tuple(asked) in set(runs(words(text), len(asked)))


def agreed(question: str, answers: Sequence[str | None]) -> tuple[str, int] | None:
    """The answer that most of several give, in the words of the first that gives it, and how many do.

    Answers agree if they add the same words to the question: "Paris" and "The capital of France is Paris" do.
    Capitals, punctuation and common words make no difference.

    Returns:
        ``None`` if no more than half of them give one answer, or if it adds nothing.
    """
    given = [(added, answer) for answer in answers if answer and (added := adds(question, answer))]
    if not given:
        return None
    ((best, count),) = Counter(added for added, _ in given).most_common(1)
    if 2 * count <= len(answers):
        return None
    return next(answer for added, answer in given if added == best), count


def adds(question: str, answer: str) -> tuple[str, ...]:
    """The words of an answer that its question does not have, in their order, without common ones."""
    known = _COMMON | set(words(question))
    return tuple(word for word in words(answer) if word not in known)


def bare(answer: str) -> tuple[str, ...]:
    """What two answers are compared by."""
    found = words(answer)
    return tuple(found[1:] if len(found) > 1 and found[0] in ("the", "a", "an") else found)


def gives_answer(question: str, answer: str) -> bool:
    """Whether every telling word of an answer is in its question."""
    return not adds(question, answer)


def same_question(one: str, other: str) -> bool:
    """Whether two questions with the same answer are wordings of each other."""
    first, second = (set(words(text)) - _COMMON for text in (one, other))
    return bool(first and second) and len(first & second) >= WORDING_SHARE * min(len(first), len(second))


def distinct(texts: Iterable[str]) -> list[str]:
    """The texts whose words differ, the first of each."""
    first: dict[tuple[str, ...], str] = {}
    for text in texts:
        first.setdefault(tuple(words(text)), text)
    return list(first.values())
