"""What an evaluation asks of each set, and whether its rows can give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data.example import Example
from ..errors import RequestError
from ..registry import suggest
from .metrics import METRICS
from .spec import EvalSpec, Sampling, SetScoring

_VARIANTS = "variants:"


@dataclass(frozen=True)
class SetRequest:
    """What is asked of one set.

    Attributes:
        metrics: Names of metrics.
        needs: What its records must hold, in the words of :data:`~hf_unlearn.evaluation.spec.NEEDS`.
        max_new_tokens: Length of continuations.
        stop: Strings at which a continuation ends.
        sampling: How to sample; ``None`` for no samples.
        generate_limit: Prompts are continued for the first so many facts; all if ``None``.
    """

    metrics: tuple[str, ...]
    needs: frozenset[str]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None
    generate_limit: int | None = None


def set_requests(
    sets: Mapping[str, Sequence[Example]], spec: EvalSpec, scoring: Mapping[str, SetScoring]
) -> dict[str, SetRequest]:
    """The request of each set.

    Args:
        sets: Rows by set name.
        spec: What is measured where nothing else is said.
        scoring: Settings of single sets.

    Raises:
        RequestError: A metric's or a set's name is not known, samples are needed and nothing says how, or a row
            lacks what a metric that was named for its set needs. The message has the row's file and line.
    """
    for name in scoring:
        if name not in sets:
            raise RequestError(f"the set {name!r} has settings and is not scored: {suggest(name, [*sets])}")
    return {name: _request(name, rows, spec, scoring.get(name, SetScoring())) for name, rows in sets.items()}


def _request(name: str, rows: Sequence[Example], spec: EvalSpec, settings: SetScoring) -> SetRequest:
    metrics = spec.metrics if settings.metrics is None else settings.metrics
    needs = set(settings.needs)
    for metric in metrics:
        entry = METRICS.get(metric)
        needs.update(entry.needs)
        if settings.metrics is None:
            continue
        for need in entry.needs:
            _check_rows(f"the metric {metric} of the set {name}", need, rows)
    if "samples" in needs and settings.sampling is None:
        raise RequestError(f"the set {name} needs samples and nothing says how many and how: give it a sampling")
    return SetRequest(
        metrics=metrics,
        needs=frozenset(needs),
        max_new_tokens=settings.max_new_tokens or spec.max_new_tokens,
        stop=settings.stop,
        sampling=settings.sampling if "samples" in needs else None,
        generate_limit=spec.generate_limit if settings.generate_limit is None else settings.generate_limit,
    )


def _check_rows(what: str, need: str, rows: Sequence[Example]) -> None:
    for row in rows:
        missing = _missing(row, need)
        if missing:
            raise RequestError(f"{row.origin or row.id}: {what} needs {missing}, and this row has none")


def _missing(row: Example, need: str) -> str:
    """What a row lacks for a need; empty if it has everything."""
    if need == "options":
        return "" if row.choices else "choices"
    if need == "prior":
        return "" if row.prior_prompt and row.choices else "choices and a prompt without the question (prior_prompt)"
    if need in ("generation", "samples"):
        return "" if row.prompt else "a prompt to continue"
    if need.startswith(_VARIANTS):
        kind = need.removeprefix(_VARIANTS)
        return "" if dict(row.variants).get(kind) else f"{kind} answers"
    return ""
