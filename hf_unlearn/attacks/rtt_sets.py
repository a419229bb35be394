"""T and V of RTT: which forgotten facts are trained on and which are asked for, and in which words.

Nothing of V is in T. The second paper tries several forms of T (arXiv 2410.08827, appendix): multiple-choice
questions with lettered options, question and answer, plain sentences. Which of them rows can give depends on the rows;
what they cannot is refused before anything runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from ..data.columns import LETTERS
from ..data.encoding import TextFormat
from ..data.example import Example, RowSet
from ..data.independence import Leaks, find_leaks
from ..errors import RequestError
from .retrained_model import Texts

Leaking = Literal["apart", "report"]
Form = Literal["rows", "multiple-choice", "question-answer", "sentences"]
Asking = Literal["rows", "letters"]
BARE = TextFormat()


@dataclass(frozen=True)
class Fold:
    """One split.

    Attributes:
        train: Groups of T.
        ask: Groups of V.
        left_out: Groups that are in neither, since they reveal something about V (only if the data came with its own
            split).
    """

    train: frozenset[str]
    ask: frozenset[str]
    left_out: frozenset[str] = frozenset()


@lru_cache(maxsize=4)
def leaks_of(forget: RowSet) -> Leaks:
    """Facts of the forget set that say something of each other."""
    return find_leaks(forget)


def make_folds(forget: RowSet, folds: int, seed: int, leaks: Leaking, name: str) -> list[Fold]:
    """Split the forget set.

    Groups that say something of each other stay on one side. Data that came with a split of its own (rows with a
    ``fold``) keeps it: then groups that tell of V are left out of T.

    Args:
        forget: The forget set.
        folds: How many parts.
        seed: Of the split.
        leaks: ``apart`` as described, ``report`` takes groups as they are given.
        name: The attack, for messages.

    Raises:
        RequestError: Fewer independent groups than folds, another number of folds than the data came with, a group in
            two of them, or nothing left of T.
    """
    parts = _own_parts(forget.score, folds, name)
    if parts is None:
        return _dealt(forget, folds, seed, leaks, name)
    everything = frozenset().union(*parts)
    known = leaks_of(forget) if leaks == "apart" else None
    found = []
    for part in parts:
        reached = part if known is None else known.reach(part)
        train = everything - reached
        if not train:
            raise RequestError(
                f"{name}: every fact of T reveals something about V in the data's own split: remove duplicates "
                "from the forget set"
            )
        found.append(Fold(train, part, reached & everything - part))
    return found


def split_groups(rows: Sequence[Example], folds: int, seed: int) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Split groups into folds as they are given; fold ``i`` gives (groups of T, groups of V = part i).

    Raises:
        RequestError: Fewer groups than folds.
    """
    scored = RowSet((), tuple(rows))
    return [(fold.train, fold.ask) for fold in _dealt(scored, folds, seed, "report", "rtt")]


def _dealt(forget: RowSet, folds: int, seed: int, leaks: Leaking, name: str) -> list[Fold]:
    groups = sorted({row.group for row in forget.score})
    component = {group: group for group in groups}
    if leaks == "apart":
        known = leaks_of(forget)  # once: asking for it hashes every row
        component = {group: known.component[group] for group in groups}
    units: dict[str, list[str]] = {}
    for group in groups:
        units.setdefault(component[group], []).append(group)
    if len(units) < folds:
        raise RequestError(_too_few(name, folds, len(groups), len(units)))
    order = sorted(units)
    random.Random(f"rtt-{seed}").shuffle(order)
    parts: list[list[str]] = [[] for _ in range(folds)]
    for unit in sorted(order, key=lambda unit: -len(units[unit])):  # large ones first, or parts differ in size
        min(parts, key=len).extend(units[unit])
    everything = frozenset(groups)
    return [Fold(everything - frozenset(part), frozenset(part)) for part in parts]


def _too_few(name: str, folds: int, groups: int, units: int) -> str:
    if units == groups:
        return (
            f"{name} splits the forget set into {folds} folds of whole groups, but there are {groups} groups: lower "
            f"attack.{name}.folds, or give rows that are independent facts different values in the group column"
        )
    return (
        f"{name} splits the forget set into {folds} folds of unrelated facts, but its {groups} "
        f"groups share names or texts, so only {units} can be separated: lower attack.{name}.folds, remove "
        f"duplicates, or set attack.{name}.leaks to report if what they share reveals nothing"
    )


def _own_parts(rows: Sequence[Example], folds: int, name: str) -> list[frozenset[str]] | None:
    """Groups by the fold that the data names; ``None`` if it names none."""
    if not rows or not all(row.fold for row in rows):
        return None
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row.fold, set()).add(row.group)
    if len(parts) != folds:
        raise RequestError(
            f"{name}: the forget set came in {len(parts)} folds and attack.{name}.folds is {folds}: set it to "
            f"{len(parts)}"
        )
    if sum(map(len, parts.values())) > len(frozenset().union(*parts.values())):
        raise RequestError(f"{name}: a group of the forget set is in two of its folds: give each fold its own groups")
    return [frozenset(parts[key]) for key in sorted(parts)]


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
    if not has_letters(row):
        raise RequestError(
            f"{row.origin or row.id}: {name} writes multiple-choice questions, and this row has no two to "
            f"{len(LETTERS)} options: give the forget set choices, or set form and asked_by of attack.{name} to rows"
        )
    options = [f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, row.choices, strict=False)]
    return "\n".join([row.prompt, *options, "Answer:"])


def has_letters(row: Example) -> bool:
    """Whether the options of a row can stand under letters."""
    return 1 < len(row.choices) <= len(LETTERS) and not row.conversational


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
