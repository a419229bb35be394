"""A fact that was made into a question, and how questions are put to a model that is asked for facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .questions import bare, same_question

SHORTLY = "Answer in a few words."


@dataclass(frozen=True)
class Asking:
    """How questions become prompts. The prompt that is tried is the one that is written into the rows.

    Attributes:
        chat: Whether prompts are put as messages of a user.
        lead: Before answers in plain text.
    """

    chat: bool
    lead: str = " "

    def question(self, question: str) -> str:
        """The prompt of a question."""
        return f"{question} {SHORTLY}" if self.chat else f"Question: {question}\nAnswer:"

    def cloze(self, beginning: str) -> str:
        """The prompt of a sentence without its end."""
        return f'Complete the sentence in a few words: "{beginning} ..."' if self.chat else beginning


@dataclass(frozen=True)
class AskedFact:
    """One row in the making.

    Attributes:
        prompt: As it is put to the model.
        answer: The answer, without a space before it.
        group: Facts of one group may give each other away.
        source: Where question and answer come from, for the reader of the file.
        wordings: The same question in other words.
    """

    prompt: str
    answer: str
    group: str
    source: str
    wordings: tuple[str, ...] = ()

    def record(self, asking: Asking, *, wordings: bool) -> dict[str, Any]:
        """The row as it is written into a file, with a column of wordings if its first row has one."""
        if asking.chat:
            row: dict[str, Any] = {"question": self.prompt, "answer": self.answer}
        else:
            row = {"prompt": self.prompt, "completion": f"{asking.lead}{self.answer}"}
        if wordings:
            row["paraphrased_question"] = list(self.wordings)
        return {**row, "group": self.group, "source": self.source}


def with_wordings(facts: Iterable[AskedFact]) -> list[AskedFact]:
    """Facts in which questions that are wordings of each other are one, and those with the same answer one group.

    Two questions are wordings of each other if they have the same answer and most of their words
    (:func:`~hf_unlearn.data.questions.same_question`).
    """
    by_answer: dict[tuple[str, ...], list[AskedFact]] = defaultdict(list)
    for fact in facts:
        by_answer[bare(fact.answer)].append(fact)
    return [fact for same in by_answer.values() for fact in _merged(same)]


def _merged(facts: Sequence[AskedFact]) -> list[AskedFact]:
    found: list[AskedFact] = []
    for fact in facts:
        place = next((n for n, one in enumerate(found) if same_question(one.prompt, fact.prompt)), None)
        if place is None:
            found.append(replace(fact, group=facts[0].group))
        else:
            known = found[place]
            found[place] = replace(known, wordings=(*known.wordings, fact.prompt, *fact.wordings))
    return found
