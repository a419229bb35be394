"""Scoring a model folder: records of every row, and their means."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.encoding import TextFormat, encode_prompt, load_tokenizer
from ..data.example import Example
from ..errors import RequestError
from ..verification.scores import FactScores
from .metrics import METRICS, apply_metrics
from .records import ScoredRow, write_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECORDS_FILE = "records.jsonl"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class EvalSpec:
    """What is measured, and with how much work.

    Attributes:
        metrics: Names of metrics.
        max_new_tokens: Length of the greedy continuations of prompts.
        fluency_tokens: Length of the greedy continuations of generic text.
        generate_limit: Prompts are continued for the first so many facts of each set; all if left out, 0 for none.
        batch_tokens: Tokens per forward, padding included.
    """

    metrics: tuple[str, ...] = ("probability", "extraction_strength", "exact_match", "rouge_l", "mc_accuracy")
    max_new_tokens: int = 64
    fluency_tokens: int = 64
    generate_limit: int | None = None
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        for key in ("max_new_tokens", "fluency_tokens", "batch_tokens"):
            if getattr(self, key) < 1:
                raise RequestError(f"evaluate.{key} is {getattr(self, key)}: it must be at least 1")
        if self.generate_limit is not None and self.generate_limit < 0:
            raise RequestError(f"evaluate.generate_limit is {self.generate_limit}: use 0 for no generation")
        if not self.metrics:
            raise RequestError("evaluate.metrics is empty: name at least one metric")


def evaluate_folder(
    folder: Path,
    sets: Mapping[str, Sequence[Example]],
    generic: Sequence[Example],
    reference_folder: Path | None,
    fmt: TextFormat,
    spec: EvalSpec,
    out_dir: Path,
    dtype: str = "float32",
) -> None:
    """Score a model folder and write ``records.jsonl`` and ``summary.json``.

    Args:
        folder: Model and tokenizer, quantized or not.
        sets: Rows by set name.
        generic: Ordinary text; its records are the set ``generic``.
        reference_folder: The target under the same transform, for the KL on generic text; ``None`` leaves it out.
        fmt: How prompt and answer become one text.
        spec: What is measured.
        out_dir: Where the two files go; made if it is not there.
        dtype: Type of the weights that are not quantized.

    Raises:
        RequestError: The folder, a row or a metric's name is wrong.
        EnvironmentFailure: A library that the folder's format needs is missing.
    """
    from .loading import load_model
    from .scoring import score_rows

    metrics = [METRICS.get(name) for name in spec.metrics]
    tokenizer = load_tokenizer(str(folder))
    model = load_model(folder, dtype)
    records = score_rows(model, tokenizer, sets, fmt, batch_tokens=spec.batch_tokens)
    if any("generation" in metric.needs for metric in metrics):
        rows = [row for members in sets.values() for row in members]
        records = add_generations(records, rows, model, tokenizer, fmt, spec)
    records = apply_metrics(records, spec.metrics)
    if generic:
        from .generic import score_generic

        same = reference_folder is not None and reference_folder.resolve() == folder.resolve()
        reference = model if same else load_model(reference_folder, dtype) if reference_folder else None
        records += score_generic(
            model,
            reference,
            tokenizer,
            generic,
            fmt,
            max_new_tokens=spec.fluency_tokens,
            batch_tokens=spec.batch_tokens,
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    write_records(out_dir / RECORDS_FILE, records)
    summary = json.dumps(summarize(records), indent=2, sort_keys=True)
    (out_dir / SUMMARY_FILE).write_text(summary + "\n", encoding="utf-8")


def add_generations(
    records: Sequence[ScoredRow],
    rows: Sequence[Example],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    fmt: TextFormat,
    spec: EvalSpec,
) -> list[ScoredRow]:
    """Records with greedy continuations, for the first ``spec.generate_limit`` facts of each set.

    Args:
        records: Records of ``rows``, in the same order.
        rows: The rows; those without a prompt get no continuation.
        model: In eval mode.
        tokenizer: The model's tokenizer.
        fmt: How prompt and answer become one text.
        spec: Length, limit and batch size.
    """
    from .generation import generate_greedy

    wanted = _first_facts(records, spec.generate_limit)
    places = [
        place
        for place, (record, row) in enumerate(zip(records, rows, strict=True))
        if row.prompt and (record.set, record.fact) in wanted
    ]
    prompts = [encode_prompt(rows[place], tokenizer, fmt) for place in places]
    longest = max(map(len, prompts), default=1)
    batch_size = max(1, spec.batch_tokens // (longest + spec.max_new_tokens))
    texts = generate_greedy(model, tokenizer, prompts, spec.max_new_tokens, batch_size)
    done = list(records)
    for place, text in zip(places, texts, strict=True):
        done[place] = replace(done[place], generated=text)
    return done


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


def summarize(records: Iterable[ScoredRow]) -> dict[str, dict[str, dict[str, float]]]:
    """``{set: {metric: {"mean": mean over facts, "n": number of facts}}}``."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for (name, metric), facts in fact_scores(records).items():
        summary.setdefault(name, {})[metric] = {"mean": facts.mean, "n": len(facts.values)}
    return summary


def _first_facts(records: Sequence[ScoredRow], limit: int | None) -> set[tuple[str, str]]:
    facts: dict[str, dict[str, None]] = {}
    for record in records:
        facts.setdefault(record.set, {})[record.fact] = None
    return {(name, fact) for name, found in facts.items() for fact in list(found)[:limit]}
