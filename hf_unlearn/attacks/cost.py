"""What attacks will take, reported in advance: counted from their settings, timed on a few rows of this model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.encoding import TextFormat, encode_row, load_tokenizer
from ..data.example import DataBundle, Example
from ..models.limits import padding_id
from .label_loss import mean_label_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROWS = 8
_NEW_TOKENS = 16


@dataclass(frozen=True)
class AttackCost:
    """What an attack on one model takes.

    Attributes:
        jobs: Independent jobs; each loads the model or restores it.
        steps: Optimizer steps, all jobs together.
        rows_trained: Rows put through forward and backward, all epochs and jobs together.
        rows_scored: Rows scored by one forward, all epochs and jobs together.
        rows_generated: Answers generated.
    """

    jobs: int
    steps: int = 0
    rows_trained: int = 0
    rows_scored: int = 0
    rows_generated: int = 0


@dataclass(frozen=True)
class UnitCosts:
    """Seconds that one of each takes on this machine, with this model and these rows.

    Attributes:
        load: Loading the model once.
        train: A row put through forward and backward in float32.
        score: A row, with its options, scored.
        generate: An answer of 16 tokens generated.
    """

    load: float
    train: float
    score: float
    generate: float

    def seconds(self, cost: AttackCost) -> float:
        """What an attack of this cost takes on one model, one job after the other."""
        counted = (cost.jobs, cost.rows_trained, cost.rows_scored, cost.rows_generated)
        each = (self.load, self.train, self.score, self.generate)
        return sum(count * seconds for count, seconds in zip(counted, each, strict=True))


def measure(folder: Path, bundle: DataBundle, text_format: TextFormat, generates: bool) -> UnitCosts:
    """Time each kind of work on the first rows of the forget set. Weights are not changed.

    Args:
        folder: A model that will be attacked, or one of its size.
        bundle: The run's data.
        text_format: How prompt and answer become one text.
        generates: Whether any attack generates answers; if none does, that is not timed.
    """
    from ..models.loading import empty_model, load_model

    tokenizer = load_tokenizer(str(folder))
    rows = bundle.forget.score[:_ROWS]
    empty_model(folder)  # first-time imports are not counted
    start = time.perf_counter()
    model = load_model(folder, dtype="float32")
    load = time.perf_counter() - start
    score = _timed(lambda: _score(model, tokenizer, rows, text_format)) / len(rows)
    generate = _timed(lambda: _generate(model, tokenizer, rows)) / len(rows) if generates else 0.0
    train = _timed(lambda: _train(model, tokenizer, rows, text_format)) / len(rows)
    return UnitCosts(load, train, score, generate)


def cost_lines(costs: Mapping[str, AttackCost], models: int, units: UnitCosts | None) -> list[str]:
    """Lines for a person: a line for each attack, and the sum.

    Args:
        costs: What each attack takes on one model.
        models: How many models are attacked.
        units: What was timed; without it no seconds are reported.
    """
    named = [(name, cost) for name, cost in costs.items()]
    total = added([cost for _, cost in named])
    if len(named) > 1:
        named.append(("together", total))
    width = max((len(name) for name, _ in named), default=0)
    return [f"{name.ljust(width)}  {_line(cost, models, units)}" for name, cost in named]


def added(costs: Sequence[AttackCost]) -> AttackCost:
    """The sum."""
    return AttackCost(
        jobs=sum(cost.jobs for cost in costs),
        steps=sum(cost.steps for cost in costs),
        rows_trained=sum(cost.rows_trained for cost in costs),
        rows_scored=sum(cost.rows_scored for cost in costs),
        rows_generated=sum(cost.rows_generated for cost in costs),
    )


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever is read best."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86_400:,.0f} days"


def _line(cost: AttackCost, models: int, units: UnitCosts | None) -> str:
    counted = {
        "job": cost.jobs * models,
        "step": cost.steps * models,
        "row scored": cost.rows_scored * models,
        "answer generated": cost.rows_generated * models,
    }
    told = ", ".join(_counted(count, what) for what, count in counted.items() if count or what == "job")
    return f"{told}, about {duration(units.seconds(cost) * models)}" if units else told


def _counted(count: int, what: str) -> str:
    first, _, rest = what.partition(" ")
    return " ".join(word for word in (str(count), first + "s" * (count != 1), rest) if word)


def _timed(work: Callable[[], Any]) -> float:
    work()  # the first time is longer: memory is asked for, kernels are chosen
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example], text_format: TextFormat
) -> None:
    from ..evaluation.scoring import score_rows

    score_rows(model, tokenizer, {"forget": rows}, text_format)


def _train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example], text_format: TextFormat
) -> None:
    from ..data.pairing import pad_rows

    encoded = [encode_row(row, tokenizer, text_format, eos=True) for row in rows]
    padded = pad_rows(encoded, range(len(encoded)), padding_id(tokenizer, model))
    batch = {
        "input_ids": padded["input_ids"].to(model.device),
        "attention_mask": padded["attention_mask"].to(model.device),
        "labels": padded["labels"].to(model.device),
    }
    model.requires_grad_(True)
    mean_label_loss(model, batch).backward()
    model.zero_grad(set_to_none=True)


def _generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example]) -> None:
    import torch

    prompts = [tokenizer(row.prompt or row.answer[:1])["input_ids"] for row in rows]
    shortest = max(1, min(map(len, prompts)))
    batch = torch.tensor([(ids or [0])[:shortest] for ids in prompts], device=model.device)
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            input_ids=batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=_NEW_TOKENS,
            min_new_tokens=_NEW_TOKENS,
            do_sample=False,
            pad_token_id=int(tokenizer.pad_token_id or 0),
        )
