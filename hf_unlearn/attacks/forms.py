"""In which words an attacker writes down the facts to train on, and how the others are asked for.

The second paper tries several forms of T (arXiv 2410.08827, appendix): multiple-choice questions with lettered
options, question and answer, plain sentences. Which of them rows can give depends on the rows; what they cannot is
refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..data.columns import LETTERS
from ..data.encoding import TextFormat
from ..data.example import Example, RowSet
from ..errors import RequestError

Form = Literal["rows", "multiple-choice", "question-answer", "sentences"]
Asking = Literal["rows", "letters"]
BARE = TextFormat()


@dataclass(frozen=True)
class Texts:
    """Rows to train on.

    Attributes:
        rows: The rows.
        format: How they become text.
        ended: Whether the end of the text is trained too.
    """

    rows: tuple[Example, ...]
    format: TextFormat
    ended: bool


def write_texts(form: Form, forget: RowSet, groups: Iterable[str], fmt: TextFormat, name: str) -> Texts:
    """The facts of some groups, in a form.

    Args:
        form: ``rows`` are those that were trained; ``multiple-choice`` and ``question-answer`` are made of the rows
            that are scored, each question once; ``sentences`` are rows of plain text, or prompts that run on into
            their answer.
        forget: The forget set.
        groups: Which facts.
        fmt: How the data's own rows become text.
        name: The attack, for messages.

    Raises:
        RequestError: The rows cannot be written in this form; says which one and what to do.
    """
    wanted = frozenset(groups)
    part = RowSet(*(tuple(row for row in rows if row.group in wanted) for rows in (forget.train, forget.score)))
    return _WRITERS[form](part, fmt, name)


def lettered(row: Example, name: str) -> str:
    """A question with its options under letters, up to ``Answer:``.

    Raises:
        RequestError: The row has no options or too many.
    """
    if not 1 < len(row.choices) <= len(LETTERS) or row.conversational:
        raise RequestError(
            f"{row.origin or row.id}: {name} writes multiple-choice questions, and this row has no two to "
            f"{len(LETTERS)} options: give the forget set choices, or set form and asked_by of attack.{name} to rows"
        )
    options = [f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, row.choices, strict=False)]
    return "\n".join([row.prompt, *options, "Answer:"])


def by_letter(rows: Sequence[Example], name: str) -> tuple[Example, ...]:
    """Rows whose options are letters under the question: to be scored with :data:`BARE`.

    Raises:
        RequestError: A row has no options.
    """
    return tuple(
        replace(
            row,
            prompt=lettered(row, name),
            answer=f" {_letter(row)}",
            choices=tuple(f" {letter}" for letter in LETTERS[: len(row.choices)]),
            variants=(),
            prior_prompt="",
        )
        for row in rows
    )


def _letter(row: Example) -> str:
    return LETTERS[row.choices.index(row.answer)]


def _as_trained(forget: RowSet, fmt: TextFormat, name: str) -> Texts:
    return Texts(forget.train, fmt, True)


def _multiple_choice(forget: RowSet, fmt: TextFormat, name: str) -> Texts:
    rows = tuple(
        replace(row, prompt=lettered(row, name), answer=f" {_letter(row)}. {row.answer.strip()}")
        for row in _questions(forget)
    )
    return Texts(rows, BARE, False)


def _question_answer(forget: RowSet, fmt: TextFormat, name: str) -> Texts:
    rows = _questions(forget)
    for row in rows:
        if not row.prompt:
            raise RequestError(
                f"{row.origin or row.id}: {name}.form is question-answer, and this row is plain text without a "
                "question: set it to sentences"
            )
    return Texts(rows, fmt, False)


def _sentences(forget: RowSet, fmt: TextFormat, name: str) -> Texts:
    return Texts(tuple(_sentence(row, fmt, name) for row in forget.train), BARE, False)


def _sentence(row: Example, fmt: TextFormat, name: str) -> Example:
    if not row.prompt:
        return row
    bare = fmt.kind == "plain" and fmt.template == BARE.template and not row.conversational
    if not bare or row.prompt.rstrip().endswith(("?", ":")):
        raise RequestError(
            f"{row.origin or row.id}: {name}.form is sentences, and this row is a question with an answer: give the "
            "forget set as sentences (a column text), or set the form to question-answer"
        )
    return replace(row, prompt="", answer=row.prompt + fmt.separator + row.answer, choices=(), variants=())


def _questions(forget: RowSet) -> tuple[Example, ...]:
    """Every question once: scoring rows may repeat one with other wrong options."""
    first = {(row.group, row.turns, row.prompt, row.answer): row for row in reversed(forget.score)}
    return tuple(reversed(first.values()))


_WRITERS: Mapping[Form, Callable[[RowSet, TextFormat, str], Texts]] = {
    "rows": _as_trained,
    "multiple-choice": _multiple_choice,
    "question-answer": _question_answer,
    "sentences": _sentences,
}
