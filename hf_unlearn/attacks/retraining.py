"""A model in the hands of somebody who fine-tunes it, scored between epochs. Shared by all attacks that retrain."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..data.encoding import EncodedRow, TextFormat, encode_row, load_tokenizer
from ..data.example import Example
from ..errors import RequestError
from ..evaluation.records import ScoredRow, write_records
from .base import Attacked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LossTokens = Literal["answer", "all"]


@dataclass(frozen=True)
class RetrainingSettings:
    """How an attacker fine-tunes.

    Attributes:
        learning_rate: Of AdamW, without weight decay.
        epochs: Passes over the rows.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant.
        loss_tokens: ``answer`` trains on answers only, ``all`` on every token.
        max_grad_norm: Gradient clipping; 0 turns it off.
        order: Seeds the order of rows.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    warmup_steps: int
    loss_tokens: LossTokens
    max_grad_norm: float
    order: str


def retrain_and_score(
    settings: RetrainingSettings,
    attacked: Attacked,
    rows: Sequence[Example],
    asked: Sequence[Example],
    out: Path,
) -> None:
    """Fine-tune a model on some rows; write the records of others per epoch as ``epoch<N>.jsonl`` (0 is before).

    A rate that diverges is recorded in ``diverged.json`` and ends there: a failed attack is a result.

    Args:
        settings: How it is fine-tuned.
        attacked: The model; metrics that need more than likelihoods are left out.
        rows: What it is trained on.
        asked: What it is scored on, as the set ``forget``.
        out: An existing folder.
    """
    model = Retraining(settings, attacked.folder, attacked.text_format)
    write_records(out / "epoch0.jsonl", model.score(asked, attacked.metrics))
    for epoch, finite in enumerate(model.epochs(rows), start=1):
        if not finite:
            (out / "diverged.json").write_text(json.dumps({"epoch": epoch}), encoding="utf-8")
            return
        write_records(out / f"epoch{epoch}.jsonl", model.score(asked, attacked.metrics))


def check_rates(name: str, rates: Sequence[float]) -> None:
    """Refuse an empty sweep, rates that are not above 0, and rates given twice."""
    if not rates or min(rates) <= 0:
        raise RequestError(f"{name}.learning_rates must name at least one rate above 0, and only such")
    if len(set(rates)) < len(rates):
        raise RequestError(f"{name}.learning_rates names a rate twice: once is enough")


def check_least(name: str, values: Mapping[str, float], least: Mapping[str, float]) -> None:
    """Refuse values below the least one that makes sense."""
    for key, value in values.items():
        if value < least[key]:
            raise RequestError(f"{name}.{key} is {value}: it must be at least {least[key]}")


class Retraining:
    """One model in the attacker's hands."""

    def __init__(self, settings: RetrainingSettings, folder: Path, text_format: TextFormat) -> None:
        import torch

        from ..evaluation.loading import load_model

        self.settings = settings
        self.format = text_format
        self.tokenizer = load_tokenizer(str(folder))
        self.model: PreTrainedModel = load_model(folder, dtype="float32")
        self.model.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        warmup = settings.warmup_steps
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0
        )

    def score(self, rows: Sequence[Example], metrics: tuple[str, ...]) -> list[ScoredRow]:
        """Teacher-forced scores, as the set ``forget``."""
        from ..evaluation.metrics import apply_metrics
        from ..evaluation.scoring import score_rows

        self.model.eval()
        records = score_rows(self.model, self.tokenizer, {"forget": rows}, self.format)
        return apply_metrics(records, metrics)  # those that need generated text do not apply and are left out

    def epochs(self, rows: Sequence[Example]) -> Iterator[bool]:
        """Train epoch by epoch; yields whether the loss stayed finite."""
        encoded = [encode_row(row, self.tokenizer, self.format, eos=True) for row in rows]
        order = list(range(len(encoded)))
        rng = random.Random(self.settings.order)
        for _ in range(self.settings.epochs):
            rng.shuffle(order)
            self.model.train()
            finite = True
            for start in range(0, len(order), self.settings.batch_size):
                batch = [encoded[index] for index in order[start : start + self.settings.batch_size]]
                finite = finite and self._step(batch)
            yield finite
            if not finite:
                return

    def _step(self, rows: Sequence[EncodedRow]) -> bool:
        import torch

        input_ids, attention_mask, labels = self._pad(rows)
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False)
        loss: torch.Tensor = output.loss
        if not torch.isfinite(loss):
            return False
        loss.backward()
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return True

    def _pad(self, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        import torch

        longest = max(len(row.input_ids) for row in rows)
        shape = (len(rows), longest)
        input_ids = torch.full(shape, int(self.tokenizer.pad_token_id))
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, -100)
        for index, row in enumerate(rows):
            ids = torch.tensor(row.input_ids)
            first = 1 if self.settings.loss_tokens == "all" else row.n_prompt
            input_ids[index, : len(ids)] = ids
            attention_mask[index, : len(ids)] = 1
            labels[index, first : len(ids)] = ids[first:]
        device = self.model.device
        return input_ids.to(device), attention_mask.to(device), labels.to(device)
