"""A model in the hands of somebody who fine-tunes it, scored between epochs. Shared by all attacks that retrain."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.encoding import EncodedRow, TextFormat, encode_row
from ..data.example import Example
from ..errors import RequestError
from ..evaluation.records import ScoredRow, write_records
from ..evaluation.summary import fact_scores
from .base import Attacked
from .forms import Texts
from .model_cache import Resident, borrowed
from .tuning import OptimizerName, Tuning, check_optimizer, make_optimizer

if TYPE_CHECKING:
    import torch

LossTokens = Literal["answer", "all"]
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class RetrainingSettings:
    """How an attacker fine-tunes.

    Attributes:
        learning_rate: Of the optimizer.
        epochs: Passes over the rows.
        batch_size: Rows a step.
        warmup_steps: Linear warm-up, then constant.
        loss_tokens: ``answer`` trains on answers only, ``all`` on every token.
        max_grad_norm: Gradient clipping; 0 turns it off.
        order: Seeds the order of rows, and the adapters' first weights.
        optimizer: Which one, without weight decay.
        dtype: Type of the weights.
        tuning: What of the model is trained.
        patience: Epochs without gain after which a rate is given up; 0 never gives up.
        max_tokens: Longer rows lose their beginning; ``None`` leaves them whole.
        name: The attack, for messages.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    warmup_steps: int
    loss_tokens: LossTokens
    max_grad_norm: float
    order: str | int
    optimizer: OptimizerName = "adamw"
    dtype: Dtype = "float32"
    tuning: Tuning = field(default_factory=Tuning)
    patience: int = 0
    max_tokens: int | None = None
    name: str = "attack"

    def describe(self) -> dict[str, Any]:
        """What the attacker has, as plain data for the report."""
        library = {"adamw": "AdamW", "lion": "Lion"}[self.optimizer]
        return {
            "optimizer": f"{library}, {self.tuning.describe()} in {self.dtype}",
            "loss_tokens": self.loss_tokens,
            **({"gives_up_after": self.patience} if self.patience else {}),
        }


def retrain_and_score(
    settings: RetrainingSettings,
    attacked: Attacked,
    rows: Sequence[Example] | Texts,
    asked: Sequence[Example],
    out: Path,
    asked_format: TextFormat | None = None,
) -> None:
    """Fine-tune a model on some rows; write the records of others per epoch as ``epoch<N>.jsonl`` (0 is before).

    A rate that diverges is recorded in ``diverged.json``, one that is given up in ``stopped.json``; both end there: a
    failed attack is a result.

    Args:
        settings: How it is fine-tuned.
        attacked: The model; metrics that need more than likelihoods are left out.
        rows: What it is trained on: rows in the data's own format, or texts with theirs.
        asked: What it is scored on, as the set ``forget``.
        out: An existing folder.
        asked_format: How the rows that are asked for become text, where not in the data's own way.
    """
    if asked_format is not None:
        attacked = replace(attacked, text_format=asked_format)
    texts = rows if isinstance(rows, Texts) else Texts(tuple(rows), attacked.text_format, True)
    patience = Patience(settings.patience)
    with retraining(settings, attacked.folder) as model:
        before = model.score_untouched(asked, attacked)
        write_records(out / "epoch0.jsonl", before)
        patience.gains(before)
        for epoch, finite in enumerate(model.epochs(texts), start=1):
            records = model.score_if_finite(asked, attacked) if finite else None
            if records is None:
                _note(out / "diverged.json", epoch)
                return
            write_records(out / f"epoch{epoch}.jsonl", records)
            if not patience.gains(records) and epoch < settings.epochs:
                _note(out / "stopped.json", epoch)
                return


def _note(path: Path, epoch: int) -> None:
    path.write_text(json.dumps({"epoch": epoch}), encoding="utf-8")


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


@contextmanager
def retraining(settings: RetrainingSettings, folder: Path) -> Iterator[Retraining]:
    """The model of a folder in the attacker's hands; afterwards it is as it was, ready for the next job.

    Raises:
        RequestError: The model cannot be trained like this.
        MissingExtraError: A library that the settings need is not installed.
    """
    check_optimizer(settings.optimizer, settings.dtype, settings.name)
    with (
        borrowed(folder, settings.dtype, edits=settings.tuning.kind == "full") as resident,
        settings.tuning.applied(settings.name, resident.model, settings.order) as trained,
    ):
        yield Retraining(settings, resident, trained)


class Retraining:
    """One model in the attacker's hands: see :func:`retraining`.

    Args:
        settings: How it is fine-tuned.
        resident: The model and its tokenizer.
        trained: The model, or a wrapper with adapters; what wants gradients in it is trained.
    """

    def __init__(self, settings: RetrainingSettings, resident: Resident, trained: Any) -> None:
        self.settings = settings
        self.resident = resident
        self.model = trained
        self.tokenizer = resident.tokenizer
        self._weights = [weight for weight in trained.parameters() if weight.requires_grad]

    def score_untouched(self, rows: Sequence[Example], attacked: Attacked) -> list[ScoredRow]:
        """Scores before the first step: the same for every rate of a sweep, so that they are taken once."""
        key = ("scores", tuple(rows), attacked.text_format, attacked.metrics, attacked.then)
        if key not in self.resident.known:
            self.resident.known[key] = self.score(rows, attacked)
        return list(self.resident.known[key])

    def score(self, rows: Sequence[Example], attacked: Attacked) -> list[ScoredRow]:
        """Teacher-forced scores, as the set ``forget``."""
        from .scoring import score_attacked

        return score_attacked(self.model, self.tokenizer, rows, attacked)

    def score_if_finite(self, rows: Sequence[Example], attacked: Attacked) -> list[ScoredRow] | None:
        """Scores, or ``None`` where the last step broke the model before a loss could show it."""
        from ..evaluation.labels import NotFiniteError

        try:
            return self.score(rows, attacked)
        except NotFiniteError:
            return None

    def epochs(self, texts: Texts) -> Iterator[bool]:
        """Train epoch by epoch; yields whether the loss stayed finite."""
        import torch

        encoded = self.encode(texts)
        optimizer = make_optimizer(self.settings.optimizer, self._weights, self.settings.learning_rate)
        warmup = self.settings.warmup_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0
        )
        for order in shuffled_epochs(len(encoded), self.settings.epochs, self.settings.order):
            self.model.train()
            finite = True
            for start in range(0, len(order), self.settings.batch_size):
                batch = [encoded[index] for index in order[start : start + self.settings.batch_size]]
                finite = finite and self._step(batch, optimizer, schedule)
            yield finite
            if not finite:
                return

    def encode(self, texts: Texts) -> list[EncodedRow]:
        """Token ids, kept for the other jobs on the same model."""
        key = ("texts", texts, self.settings.max_tokens)
        if key not in self.resident.known:
            rows = [encode_row(row, self.tokenizer, texts.format, eos=texts.ended) for row in texts.rows]
            self.resident.known[key] = [_cut(row, self.settings.max_tokens) for row in rows]
        return list(self.resident.known[key])

    def _step(self, rows: Sequence[EncodedRow], optimizer: Any, schedule: Any) -> bool:
        import torch

        input_ids, attention_mask, labels = self.pad(rows)
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False)
        loss: torch.Tensor = output.loss
        if not torch.isfinite(loss):
            return False
        loss.backward()
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._weights, self.settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return True

    def pad(self, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, attention mask and labels ``[rows, longest]``; padding and what carries no loss is -100."""
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
        device = self.resident.model.device
        return input_ids.to(device), attention_mask.to(device), labels.to(device)


def _cut(row: EncodedRow, max_tokens: int | None) -> EncodedRow:
    """A row without its beginning, where it is too long; at least one token of it stays unlabelled."""
    excess = len(row.input_ids) - (max_tokens or len(row.input_ids))
    if excess <= 0:
        return row
    return replace(row, input_ids=row.input_ids[excess:], n_prompt=max(1, row.n_prompt - excess))


def shuffled_epochs(rows: int, epochs: int, seed: str | int) -> Iterator[list[int]]:
    """Positions of the rows for each epoch, as the second paper's code has them.

    Shuffled once by the seed, then again in place by the number of the epoch (arXiv 2410.08827, released code). With a
    whole number as seed and the rows in the same order, it is the same order as there.

    Args:
        rows: How many there are.
        epochs: How many orders.
        seed: Of the first shuffle.
    """
    order = list(range(rows))
    random.Random(seed).shuffle(order)
    for epoch in range(epochs):
        random.Random(epoch).shuffle(order)
        yield list(order)


LEAST_GAIN = 0.005


class Patience:
    """Watches the scores of one job, epoch by epoch.

    A gain is a metric whose mean over facts is more than 0.005 above its best so far. Rates that are too timid and
    rates that have broken the model both stop gaining; what is lost by giving up is at most what so slow a climb would
    still have brought.

    Args:
        limit: Epochs in a row without gain after which the rate is given up; 0 never gives up.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._best: dict[str, float] = {}
        self._idle = 0

    def gains(self, records: Sequence[ScoredRow]) -> bool:
        """Take the next epoch's scores; whether it is worth going on."""
        means = {metric: scores.mean for (_, metric), scores in fact_scores(records).items()}
        gained = [name for name, mean in means.items() if mean > self._best.get(name, -1.0) + LEAST_GAIN]
        for name in gained:
            self._best[name] = means[name]
        self._idle = 0 if gained else self._idle + 1
        return not self._limit or self._idle < self._limit
