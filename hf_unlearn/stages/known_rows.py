"""Rows that the target does not know are left out of a set (``known``): what was never learned cannot be forgotten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..data.example import Example, RowSet
from ..errors import RequestError
from .target_answers import TargetAnswers

_OTHER_QUESTIONS = 4


def only_known(rows: RowSet, least: float, target: TargetAnswers, name: str) -> tuple[RowSet, str]:
    """The rows of a set that the target knows.

    A row is known if its own question makes the answer more likely than other questions of the set do: by the
    log-probability of the answer after its prompt, minus that after a prompt without the question
    (``prior_prompt``), or after four other questions of the set, taken together.

    Args:
        rows: The set.
        least: The least difference, in nats.
        target: The model to ask.
        name: Name of the set in messages.

    Returns:
        The set, and a sentence that counts what was left out.

    Raises:
        RequestError: A row has no question, or none is known.
    """
    asked = list(rows)
    if bare := [row for row in asked if not row.prompt]:
        raise RequestError(
            f"data.{name}.known: {bare[0].origin or bare[0].id} is plain text, which has no question: remove known"
        )
    own = target.logps(asked)
    kept = set()
    for row, logp, prior in zip(asked, own, _priors(asked, target), strict=True):
        if logp - prior >= least:
            kept.add(row.id)
    if not kept:
        raise RequestError(f"data.{name}.known is {least:g}, and the target knows none of {len(asked)} rows: lower it")
    train, score = ([row for row in part if row.id in kept] for part in (rows.train, rows.score))
    told = (
        f"{len(asked) - len(kept)} of the {len(asked)} rows of the {name} set are left out, because the target does "
        f"not know them: their question makes the answer less than {least:g} nats more likely."
    )
    return RowSet(tuple(train), tuple(score)), told


def _priors(rows: Sequence[Example], target: TargetAnswers) -> list[float]:
    """Log-probability of every answer without its question."""
    asked = [_without_question(row, rows, number) for number, row in enumerate(rows)]
    logps = iter(target.logps([row for some in asked for row in some]))
    return [_log_mean_exp([next(logps) for _ in some]) for some in asked]


def _without_question(row: Example, rows: Sequence[Example], number: int) -> list[Example]:
    if row.prior_prompt:
        return [replace(row, id=f"{row.id}-prior", prompt=row.prior_prompt, turns=(), choices=())]
    others = [other for other in rows if other.group != row.group and other.answer != row.answer]
    if not others:
        raise RequestError(
            f"known compares {row.origin or row.id} with other questions of the set, and there is none of another "
            "group: remove known"
        )
    step = max(1, len(others) // _OTHER_QUESTIONS)
    chosen = [others[(number + place * step) % len(others)] for place in range(min(_OTHER_QUESTIONS, len(others)))]
    return [
        replace(other, id=f"{row.id}-after-{place}", answer=row.answer, choices=(), variants=())
        for place, other in enumerate(chosen)
    ]


def _log_mean_exp(values: Sequence[float]) -> float:
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values) / len(values))
