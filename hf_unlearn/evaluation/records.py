"""What scoring keeps of each row, and means of it over facts. Metrics are pure functions of these records.

No torch here: reading scores is cheap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..runtime.files import open_private
from ..verification.intervals import Bootstrap, mean_estimate
from ..verification.scores import FactScores

_TUPLES = (
    "logps",
    "hits",
    "choice_logps",
    "choice_lengths",
    "vocab_means",
    "vocab_variances",
    "prior_logps",
    "layer_logps",
    "samples",
)


@dataclass(frozen=True)
class AnswerScore:
    """A further answer to a row's prompt.

    Attributes:
        logp: Summed log-probability (nats) of its tokens given everything before them.
        tokens: How many they are.
    """

    logp: float
    tokens: int

    @property
    def mean(self) -> float:
        """Mean log-probability per token."""
        return self.logp / self.tokens


@dataclass(frozen=True)
class ScoredRow:
    """One scored row of one model.

    Attributes:
        id, fact, group: From the :class:`~hf_unlearn.data.example.Example`.
        set: Name of the set: ``forget``, ``retain``, ``holdout``, ``generic`` or the name of a further set.
        logps: Log-probability (nats) of each answer token given everything before it.
        hits: Whether each answer token was the most likely one.
        choice_logps: Summed log-probability (nats) of each option as answer, in the order of the row's choices.
        choice_lengths: Number of tokens of each option.
        right_choice: Index of the right option; -1 where there are no options.
        answer: The true answer.
        generated: Greedy continuation of the prompt; ``None`` where none was asked for.
        values: Metric name to value.
        vocab_means: For each answer token, the mean log-probability (nats) of the next token under the model's own
            distribution, ``sum_v p(v) log p(v)``; empty where no metric needs it.
        vocab_variances: For each answer token, ``sum_v p(v) log p(v)**2`` minus the square of that mean.
        variants: Further answers by kind (``paraphrased``, ``perturbed`` ...), in the order of the row's.
        prior_logps: Summed log-probability (nats) of each option after the row's prior prompt.
        layer_logps: Mean log-probability (nats) per answer token that the output head gives the hidden states after
            each layer (logit lens), first layer first.
        grad_norm: L2 norm over all parameters of the gradient of the mean negative log-likelihood of the answer.
        samples: Sampled continuations of the prompt.
        text: Prompt and answer, where a metric needs the text itself.
    """

    id: str
    fact: str
    group: str
    set: str
    logps: tuple[float, ...] = ()
    hits: tuple[bool, ...] = ()
    choice_logps: tuple[float, ...] = ()
    choice_lengths: tuple[int, ...] = ()
    right_choice: int = -1
    answer: str = ""
    generated: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    vocab_means: tuple[float, ...] = ()
    vocab_variances: tuple[float, ...] = ()
    variants: Mapping[str, tuple[AnswerScore, ...]] = field(default_factory=dict)
    prior_logps: tuple[float, ...] = ()
    layer_logps: tuple[float, ...] = ()
    grad_norm: float | None = None
    samples: tuple[str, ...] = ()
    text: str = ""

    def with_values(self, values: Mapping[str, float]) -> ScoredRow:
        """A copy with these metric values added."""
        return replace(self, values={**self.values, **values})

    def to_json(self) -> str:
        """One JSON line."""
        # Not asdict of the whole row, which copies it number by number.
        return json.dumps(vars(self), default=asdict, ensure_ascii=False, sort_keys=True)

    @staticmethod
    def from_json(line: str) -> ScoredRow:
        """Inverse of :meth:`to_json`."""
        data: dict[str, Any] = json.loads(line)
        for key in _TUPLES:
            data[key] = tuple(data.get(key, ()))
        data["variants"] = {
            kind: tuple(AnswerScore(**score) for score in scores) for kind, scores in data.get("variants", {}).items()
        }
        return ScoredRow(**data)


def write_records(path: Path, rows: Iterable[ScoredRow]) -> None:
    """Write rows as JSON lines, for their owner's eyes only: answers are in them."""
    with open_private(path) as file:
        for row in rows:
            file.write(row.to_json() + "\n")


def read_records(path: Path) -> list[ScoredRow]:
    """Read rows written by :func:`write_records`."""
    with path.open(encoding="utf-8") as file:
        return [ScoredRow.from_json(line) for line in file]


def fact_scores(records: Iterable[ScoredRow]) -> dict[tuple[str, str], FactScores]:
    """Values per fact, by set and metric. Rows of the same fact are averaged, over those that have the metric."""
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        for metric, value in record.values.items():
            key = (record.set, metric)
            rows.setdefault(key, {}).setdefault(record.fact, []).append(value)
            groups.setdefault(key, {})[record.fact] = record.group
    return {
        key: FactScores({fact: sum(values) / len(values) for fact, values in facts.items()}, groups[key])
        for key, facts in rows.items()
    }


def summarize(records: Iterable[ScoredRow]) -> dict[str, dict[str, dict[str, Any]]]:
    """``{set: {metric: {"mean": mean over facts, "n": number of facts, "ci95": [low, high]}}}``.

    The interval is a bootstrap over groups; ``None`` where there are too few of them.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, metric), facts in fact_scores(records).items():
        interval = mean_estimate(facts, Bootstrap()).interval
        ci95 = None if interval is None else list(interval)
        summary.setdefault(name, {})[metric] = {"mean": facts.mean, "n": len(facts.values), "ci95": ci95}
    return summary
