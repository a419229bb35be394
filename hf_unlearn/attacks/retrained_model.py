"""A model in the hands of somebody who fine-tunes it: trained, and scored in between."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from ..data.encoding import EncodedRow, TextFormat, encode_row
from ..data.example import Example
from ..evaluation.records import ScoredRow
from ..models.limits import padding_id
from ..models.training_loop import DivergedError, finite, take_steps
from .base import Attacked
from .label_loss import mean_label_loss
from .model_cache import CachedModel
from .retraining_settings import RetrainingSettings
from .scoring import score_attacked, score_untouched
from .tuning import make_optimizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Texts:
    """Rows to train on.

    Attributes:
        rows: The rows.
        format: How they become text.
        ended: Whether the end of the text is trained too.
    """

    rows: tuple[Example, ...]
    format: TextFormat
    ended: bool


class Retraining:
    """One model in the attacker's hands: see :func:`retraining`.

    Args:
        settings: How it is fine-tuned.
        cached: The model and its tokenizer.
        trained: The model, or a wrapper with adapters; what wants gradients in it is trained.
    """

    def __init__(self, settings: RetrainingSettings, cached: CachedModel, trained: Any) -> None:
        self.settings = settings
        self.cached = cached
        self.model = trained
        self.tokenizer = cached.tokenizer

    def computing(self) -> AbstractContextManager[Any]:
        """The type that passes through the model are computed in, as a context."""
        import torch

        return torch.autocast(self.cached.model.device.type, torch.bfloat16, enabled=self.settings.bf16)

    def shards(self) -> dict[str, Any] | None:
        """How weights lie on the processes of a launch, as plain data; ``None`` where this one has them all."""
        return None

    def score_untouched(
        self, rows: Sequence[Example], attacked: Attacked, holdout: Sequence[Example] = ()
    ) -> list[ScoredRow]:
        """Scores before the first step, as the sets ``forget`` and ``holdout``."""
        with self.computing():
            return score_untouched(self.cached, self.model, rows, attacked, holdout)

    def score(
        self, rows: Sequence[Example], attacked: Attacked, holdout: Sequence[Example] = ()
    ) -> list[ScoredRow] | None:
        """Teacher-forced scores, as the sets ``forget`` and ``holdout``.

        ``None`` where the last step broke the model before a loss could show it.
        """
        from ..evaluation.scoring import NotFiniteError

        try:
            with self.computing():
                return score_attacked(self.model, self.tokenizer, rows, attacked, holdout)
        except NotFiniteError:
            return None

    def epochs(self, texts: Texts, rate: float, count: int | None = None) -> Iterator[bool]:
        """Train epoch by epoch at a learning rate; yields whether the loss stayed finite, and ends where not.

        Args:
            texts: What is trained on.
            rate: The learning rate.
            count: How many epochs; those of the settings if left out.
        """
        each = self.settings.steps_per_epoch(len(self.encode(texts)))
        return self.until(texts, rate, [each * epoch for epoch in range(1, (count or self.settings.epochs) + 1)])

    def until(self, texts: Texts, rate: float, marks: Sequence[int]) -> Iterator[bool]:
        """Train at a learning rate up to each of these numbers of steps.

        Args:
            texts: What is trained on, in a new order in every epoch.
            rate: The learning rate.
            marks: Numbers of steps from the first one on, rising.

        Yields:
            At each mark whether the loss stayed finite; it ends where not.
        """
        import torch

        settings, encoded = self.settings, self.encode(texts)
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = make_optimizer(settings.steps.optimizer, weights, rate)
        steps = settings.step_count(len(encoded))
        # The schedule is asked once more after the last step, for a step that is never taken.
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: settings.rate_factor(min(step, steps - 1), steps)
        )
        batches = self._batches(encoded, -(-marks[-1] // settings.steps_per_epoch(len(encoded))))
        for start, end in pairwise([0, *marks]):
            self.model.train()
            try:
                take_steps(
                    optimizer,
                    islice(batches, end - start),
                    self._add_gradients,
                    max_grad_norm=settings.steps.max_grad_norm,
                    schedule=schedule,
                )
            except DivergedError:
                yield False
                return
            yield True

    def _batches(self, encoded: Sequence[EncodedRow], epochs: int) -> Iterator[list[EncodedRow]]:
        size = self.settings.batch_size
        for order in shuffled_epochs(len(encoded), epochs, self.settings.order):
            for start in range(0, len(order), size):
                yield [encoded[index] for index in order[start : start + size]]

    def encode(self, texts: Texts) -> list[EncodedRow]:
        """Token ids, kept for the other jobs on the same model."""
        longest = self.settings.steps.max_tokens

        def encoded() -> list[EncodedRow]:
            rows = (encode_row(row, self.tokenizer, texts.format, eos=texts.ended) for row in texts.rows)
            return [_cut(row, longest) for row in rows]

        return list(self.cached.once(("texts", texts, longest), encoded))

    def _add_gradients(self, rows: Sequence[EncodedRow]) -> None:
        with self.computing():
            loss = mean_label_loss(self.model, self.pad(rows))
        finite(loss.item())
        loss.backward()

    def pad(self, rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        """The model's inputs ``[rows, longest]``, on its device; what carries no loss has the label -100."""
        from ..data.pairing import pad_rows

        if self.settings.steps.loss_tokens == "all":
            rows = [EncodedRow(row.id, row.input_ids, 1) for row in rows]
        padded = pad_rows(rows, range(len(rows)), padding_id(self.tokenizer, self.cached.model))
        device = self.cached.model.device
        return {
            "input_ids": padded["input_ids"].to(device),
            "attention_mask": padded["attention_mask"].to(device),
            "labels": padded["labels"].to(device),
        }


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
