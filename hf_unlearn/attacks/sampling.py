"""Sampling: asking repeatedly, because the greedy answer alone says little.

Source: Reisizadeh et al., "Leak@k: Unlearning Does Not Make LLMs Forget Under Probabilistic Decoding"
(arXiv 2511.04934): the expected best of k sampled answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat, encode_prompt, encode_row
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.metrics import METRICS
from ..evaluation.records import ScoredRow
from ..runtime.files import open_private
from ..verification.scores import FactScores
from . import ATTACKS
from .base import Attack, Attacked, AttackResult
from .cost import AttackCost
from .model_cache import borrowed
from .prompting import check_questions, question_budget

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..evaluation.generation import Prompt

_PER_JOB = 16
_FILE = "samples.jsonl"
_GENERATED = ("generation",)
_AFTER_ANSWER, _LONGEST = 8, 128


@ATTACKS.register(
    "leak-at-k",
    summary="sample every answer many times and take the best of k",
    paper="arXiv 2511.04934 (leak@k); estimator as pass@k in arXiv 2107.03374",
    defaults={"k": 16, "samples": 32, "temperature": 1.0, "top_p": 1.0, "scores": ["exact_match", "rouge_l"]},
    needs=("never-knew control", "generation"),
    tier="release",
)
@dataclass(frozen=True)
class LeakAtK(Attack):
    """Settings of sampling.

    It scores generated text only; likelihoods are the same however often one asks. Its scores have the names of the
    metrics of ``scores`` and are reported. A gate that names it judges it by those of them that are among the gate's
    metrics, and must have at least one.

    Attributes:
        k: Answers of which the best one counts.
        samples: Answers drawn for each question, at least ``k``. More of them make the estimate steadier.
        temperature: Divides the logits.
        top_p: Sample only from the most likely tokens that together have at least this probability.
        max_new_tokens: Length of an answer; that of the longest true one and 8 more, up to 128, if left out.
        scores: Metrics of generated text by which an answer counts.
        seed: Seed of the draws. A draw does not depend on what else is sampled.
    """

    k: int = 16
    samples: int = 32
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    scores: tuple[str, ...] = ("exact_match", "rouge_l")
    seed: int = 0

    judged: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.samples:
            raise RequestError(f"leak-at-k.k is {self.k}: it must be at least 1 and at most samples ({self.samples})")
        if not self.temperature > 0:
            raise RequestError(f"leak-at-k.temperature is {self.temperature}: it must be above 0")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"leak-at-k.top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise RequestError(f"leak-at-k.max_new_tokens is {self.max_new_tokens}: it must be at least 1")
        if not self.scores:
            raise RequestError("leak-at-k.scores is empty: name at least one metric of generated text")
        for name in self.scores:
            if METRICS.get(name).needs != _GENERATED:
                raise RequestError(f"leak-at-k.scores names {name}, which is no metric of one generated text")

    def plan(self, bundle: DataBundle) -> list[str]:
        """Samples in parts, a job each."""
        check_questions("leak-at-k", bundle.forget.score)
        return [f"samples{first}" for first in range(0, self.samples, _PER_JOB)]

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Sample and score every question; the sampled texts are not kept."""
        from ..evaluation.batch_runner import Passes
        from ..evaluation.generation import generate
        from ..models.memory import batch_budget

        bundle = attacked.bundle
        asked = [("forget", row) for row in _questions(bundle.forget.score)]
        asked += [("holdout", row) for row in self.floor_rows(bundle)]
        with borrowed(attacked.folder, edits=False) as cached:
            numbers = range(_first(job), min(_first(job) + _PER_JOB, self.samples))
            prompts = self._prompts(asked, numbers, cached.tokenizer, attacked.text_format)
            passes = Passes(batch_budget("auto", cached.model.device))
            texts = generate(cached.model, cached.tokenizer, prompts, passes)
        with open_private(out / _FILE) as file:
            for place, (split, row) in enumerate(asked):
                own = texts[place * len(numbers) : (place + 1) * len(numbers)]
                values = {name: [_value(name, row, text) for text in own] for name in self.scores}
                line = {"id": row.id, "fact": row.fact, "group": row.group, "values": values}
                line |= {"split": split} if split != "forget" else {}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """The expected best of k for each metric of ``scores``; ``metrics`` do not apply."""
        rows: dict[str, dict[str, Any]] = {}
        for job in sorted(folders, key=_first):
            for line in (folders[job] / _FILE).read_text(encoding="utf-8").splitlines():
                found = json.loads(line)
                known = rows.setdefault(found["id"], {**found, "values": {name: [] for name in self.scores}})
                for name in self.scores:
                    known["values"][name] += found["values"][name]
        scores, details, holdout = {}, [], {}
        for name in self.scores:
            judgeable = [row for row in rows.values() if None not in row["values"][name]]
            scored, beside = ([row for row in judgeable if ("split" in row) == apart] for apart in (False, True))
            if not scored:
                continue
            if beside:
                holdout[name] = _by_fact(beside, name, self.k)
            curve = {k: _by_fact(scored, name, k) for k in sorted({*_powers(self.k), self.k})}
            scores[name] = curve[self.k]
            details.append(
                {
                    "metric": name,
                    "fold": 0,
                    "k": self.k,
                    "before": curve[1].mean,
                    "after": curve[self.k].mean,
                    **{f"leak_at_{k}": facts.mean for k, facts in curve.items()},
                }
            )
        return AttackResult(scores, details, holdout)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Samples, and how they are drawn."""
        return {
            **question_budget(bundle, "prompts of the forget set"),
            "k": self.k,
            "samples": self.samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }

    def measures(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """Those of ``scores``."""
        return tuple(metric for metric in metrics if metric in self.scores)

    def cost(self, bundle: DataBundle) -> AttackCost:
        """Every question so often."""
        generated = self.samples * (len(_questions(bundle.forget.score)) + len(self.floor_rows(bundle)))
        return AttackCost(len(self.plan(bundle)), rows_generated=generated)

    def floor_rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        """Each question with a prompt once."""
        return tuple(_questions([row for row in bundle.floor if row.prompt]))

    def _prompts(
        self,
        asked: Sequence[tuple[str, Example]],
        numbers: Sequence[int],
        tokenizer: PreTrainedTokenizerBase,
        fmt: TextFormat,
    ) -> list[Prompt]:
        from ..evaluation.generation import Prompt
        from ..evaluation.spec import Sampling

        length = self.max_new_tokens
        if length is None:
            encoded = [encode_row(row, tokenizer, fmt, eos=False) for _, row in asked]
            longest = max(len(row.input_ids) - row.n_prompt for row in encoded)
            length = min(longest + _AFTER_ANSWER, _LONGEST)
        sampling = Sampling(self.samples, self.temperature, self.top_p, self.seed)
        return [
            Prompt(ids, row.origin or row.id, length, (), sampling, f"{split}/{row.id}", number)
            for split, row, ids in ((split, row, encode_prompt(row, tokenizer, fmt)) for split, row in asked)
            for number in numbers
        ]


def expected_best(values: Sequence[float], k: int) -> float:
    """Expected greatest of k values drawn without replacement: unbiased for the best of k samples of a model.

    ``sum_i v_(i) * C(i - 1, k - 1) / C(n, k)`` over the n values in rising order (arXiv 2107.03374, appendix A, has
    the case of values that are 0 or 1). The greatest of n samples itself would be biased upwards.

    Args:
        values: One per sample, at least ``k``.
        k: Number of draws.
    """
    ordered = sorted(values)
    ways = comb(len(ordered), k)
    return sum(value * (comb(place, k - 1) / ways) for place, value in enumerate(ordered))


def _by_fact(rows: Sequence[Mapping[str, Any]], name: str, k: int) -> FactScores:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["fact"], []).append(expected_best(row["values"][name], k))
    groups = {row["fact"]: row["group"] for row in rows}
    return FactScores({fact: sum(found) / len(found) for fact, found in values.items()}, groups)


def _questions(rows: Sequence[Example]) -> list[Example]:
    """Each question once: rows may differ in their options only."""
    first: dict[tuple[object, ...], Example] = {}
    for row in rows:
        first.setdefault((row.fact, row.turns, row.prompt, row.answer), row)
    return list(first.values())


def _value(name: str, row: Example, text: str) -> float | None:
    record = ScoredRow(row.id, row.fact, row.group, "forget", answer=row.answer, generated=text)
    return METRICS.get(name).value(record)


def _powers(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length())]


def _first(job: str) -> int:
    return int(job.removeprefix("samples"))
