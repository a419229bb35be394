"""What is asked of an evaluation: metrics, lengths, and settings of one set of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..data.example import Example
from ..errors import RequestError
from ..registry import suggest
from .metrics import METRICS

NEEDS = frozenset(
    {
        "options",
        "generation",
        "samples",
        "vocabulary",
        "variants:paraphrased",
        "variants:perturbed",
        "prior",
        "layers",
        "gradient",
        "text",
    }
)
"""What a metric may need to be in a record beyond the log-probabilities and hits of the answer."""

VARIANTS = "variants:"
"""How a need of further answers begins; their kind follows."""


@dataclass(frozen=True)
class EvalSpec:
    """What is measured, and with how much work.

    Attributes:
        metrics: Names of metrics.
        max_new_tokens: Length of the greedy continuations of prompts.
        fluency_tokens: Length of the greedy continuations of generic text.
        generate_limit: Prompts are continued for this many facts of each set, from the first on; all if left out, 0
            for none.
        batch_tokens: Tokens per forward pass, padding included; ``auto`` chooses by the device. Batches that do not
            fit into memory are halved in any case.
    """

    metrics: tuple[str, ...] = ("probability", "extraction_strength", "exact_match", "rouge_l", "mc_accuracy")
    max_new_tokens: int = 64
    fluency_tokens: int = 64
    generate_limit: int | None = None
    batch_tokens: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        for key in ("max_new_tokens", "fluency_tokens", "batch_tokens"):
            value = getattr(self, key)
            if value != "auto" and value < 1:
                raise RequestError(f"evaluate.{key} is {value}: it must be at least 1")
        if self.generate_limit is not None and self.generate_limit < 0:
            raise RequestError(f"evaluate.generate_limit is {self.generate_limit}: use 0 for no generation")
        if not self.metrics:
            raise RequestError("evaluate.metrics is empty: name at least one metric")


@dataclass(frozen=True)
class Sampling:
    """Sampled continuations.

    Attributes:
        count: How many of each prompt.
        temperature: Divides the logits; above 0.
        top_p: Sample only from the most likely tokens that together have at least this probability.
        seed: With the row's id and the number of the sample it decides every draw, whatever else is in the batch.
    """

    count: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RequestError(f"sampling.count is {self.count}: it must be at least 1")
        if not self.temperature > 0:
            raise RequestError(f"sampling.temperature is {self.temperature}: it must be above 0")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"sampling.top_p is {self.top_p}: it must be above 0 and at most 1")


@dataclass(frozen=True)
class SetScoring:
    """Settings of one set that differ from those of the whole evaluation.

    Attributes:
        metrics: Names of metrics; those of the :class:`EvalSpec` if left out. A row that lacks what one of these
            metrics needs is refused, whereas a metric of the :class:`EvalSpec` would only be left out.
        max_new_tokens: Length of continuations, greedy and sampled; that of the :class:`EvalSpec` if left out.
        stop: Strings at which a continuation ends; it is cut before the first of them.
        sampling: Sampled continuations, where a metric needs ``samples``.
        generate_limit: Prompts are continued for the first so many facts; as in the :class:`EvalSpec` if left out.
        needs: What else records must hold, in the words of :data:`NEEDS`: aggregates read more than metrics do.
    """

    metrics: tuple[str, ...] | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None
    generate_limit: int | None = None
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens is {self.max_new_tokens}: it must be at least 1")
        if self.generate_limit is not None and self.generate_limit < 0:
            raise RequestError(f"generate_limit is {self.generate_limit}: use 0 for no generation")
        if not all(self.stop):
            raise RequestError("stop holds an empty string: leave it out")
        if unknown := sorted(set(self.needs) - NEEDS):
            raise RequestError(f"needs names {unknown[0]!r}, which is not one of {', '.join(sorted(NEEDS))}")


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
        spec: What is measured by default.
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
        raise RequestError(f"the set {name} needs samples, but no sampling is set: give it one")
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
    if need.startswith(VARIANTS):
        kind = need.removeprefix(VARIANTS)
        return "" if dict(row.variants).get(kind) else f"{kind} answers"
    return ""
