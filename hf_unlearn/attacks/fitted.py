"""Attacks that fit a few numbers to a model whose weights stay: fitted on T, asked on V, split as for RTT.

Whatever is added to a model's inputs or hidden states can carry text of its own, into any model (arXiv 2502.15836,
for soft tokens). So what is fitted never sees V, and is one for all facts; and what comes back counts only beside the
floor, the model that never knew or holdout facts, which are attacked in the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import EncodedRow, TextFormat, encode_answer, encode_row, load_tokenizer
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import ScoredRow, write_records
from ..models.limits import context_length, padding_id
from ..models.training_loop import DivergedError, finite, take_steps
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_ends, read_epochs
from .cost import AttackCost
from .label_loss import mean_label_loss
from .model_cache import CachedModel, borrowed
from .retrained_model import shuffled_epochs
from .retraining import Lesson, note_end
from .retraining_settings import check_least
from .rtt_sets import BARE, Fold, make_folds, write_texts
from .tuning import make_optimizer

if TYPE_CHECKING:
    from torch import Tensor


class Lent(ABC):
    """What is added to a model within a block. Outside of it the model is as it was."""

    @property
    @abstractmethod
    def weights(self) -> list[Tensor]:
        """The numbers that are fitted."""

    @abstractmethod
    def applied(self) -> AbstractContextManager[None]:
        """Within the block the model has it."""

    def text(self, row: EncodedRow) -> EncodedRow:
        """A row as the model is given it: as it is, unless something comes before it."""
        return row

    def keep_bound(self) -> None:  # noqa: B027 (not everything has a bound)
        """Bring the numbers back to what is allowed, after a step."""


@dataclass(frozen=True, kw_only=True)
class FittedAttack(Attack):
    """Settings of what is fitted on T. They are reported, and judged only if a gate names the attack.

    Attributes:
        folds: Parts into which the forgotten facts are split; facts that give each other away stay together.
        run_folds: How many of them serve as V, from the first on.
        epochs: Passes over the rows of T; V is scored after each.
        batch_size: Rows per step.
        seed: Seed of the folds, of the order of rows and of what is fitted.
    """

    folds: int = 5
    run_folds: int = 2
    epochs: int = 8
    batch_size: int = 16
    seed: int = 0

    name: ClassVar[str]
    judged: ClassVar[bool] = False
    turned: ClassVar[str]
    """What is swept, as the report calls it."""

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise RequestError(
                f"{self.name}.folds is {self.folds}: at least 2 are needed, one to fit on and one to ask for"
            )
        if not 1 <= self.run_folds <= self.folds:
            raise RequestError(
                f"{self.name}.run_folds is {self.run_folds}: it must be between 1 and folds ({self.folds})"
            )
        check_least(self.name, "epochs", self.epochs, 1)
        check_least(self.name, "batch_size", self.batch_size, 1)

    @property
    @abstractmethod
    def swept(self) -> Sequence[float]:
        """The settings that are tried; the attacker keeps the best."""

    @abstractmethod
    def lend(self, cached: CachedModel, rows: Sequence[EncodedRow], setting: float) -> tuple[Lent, float]:
        """What is fitted, as it begins, and the rate of its steps.

        Args:
            cached: The attacked model, none of whose weights want gradients.
            rows: T.
            setting: One of :attr:`swept`.
        """

    @abstractmethod
    def shown(self) -> dict[str, Any]:
        """What is fitted, for the budget."""

    @property
    def added_tokens(self) -> int:
        """Tokens that come before every text."""
        return 0

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job for each fold and setting."""
        for fold in range(self.run_folds):
            self.lesson(bundle, BARE, fold)
        return [f"fold{fold}-{self.turned}{setting!r}" for fold in range(self.run_folds) for setting in self.swept]

    def lesson(self, bundle: DataBundle, text_format: TextFormat, fold: int = 0) -> Lesson:
        """T to fit on, and V to ask for.

        Raises:
            RequestError: The forget set cannot be split, or T has no training rows.
        """
        split = self._folds(bundle)[fold]
        texts = write_texts("rows", bundle.forget, split.train, text_format, self.name)
        if not texts.rows:
            raise RequestError(f"{self.name}: T has no rows to fit on: give the facts of the forget set training rows")
        return Lesson(texts, tuple(row for row in bundle.forget.score if row.group in split.ask))

    def check(self, attacked: Attacked) -> None:
        """Refuse rows of T for which the model's context is too short with what comes before them."""
        from ..models.loading import empty_model

        limit = context_length(empty_model(attacked.folder))
        if not self.added_tokens or limit is None:
            return
        tokenizer = load_tokenizer(str(attacked.folder))
        texts = self.lesson(attacked.bundle, attacked.text_format).texts
        rows = (encode_row(row, tokenizer, texts.format, eos=texts.ended) for row in texts.rows)
        longest = max(len(row.input_ids) for row in rows)
        if longest + self.added_tokens > limit:
            raise RequestError(
                f"{self.name}: the longest row of T has {longest} tokens and gets {self.added_tokens} more, and the "
                f"model takes {limit}: lower attack.{self.name}.tokens"
            )

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Fit with one setting; write the scores of V per epoch (0 is before)."""
        fold, setting = self._parse(job)
        lesson = self.lesson(attacked.bundle, attacked.text_format, fold)
        asked = {"forget": tuple(lesson.asked)}
        if holdout := self.floor_rows(attacked.bundle):
            asked["holdout"] = holdout
        with borrowed(attacked.folder, edits=False) as cached:
            texts = lesson.texts
            rows = [encode_row(row, cached.tokenizer, texts.format, eos=texts.ended) for row in texts.rows]
            lent, rate = self.lend(cached, rows, setting)
            write_records(out / "epoch0.jsonl", _ask(cached, asked, attacked, None))
            for epoch, fine in enumerate(self._fit(cached, lent, rows, rate), start=1):
                records = _asked_within(cached, asked, attacked, lent) if fine else None
                if records is None:
                    note_end(out, "diverged", epoch)
                    return
                write_records(out / f"epoch{epoch}.jsonl", records)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric and fold the best setting and epoch; facts of all folds together."""
        tries, ends = [], []
        for job, folder in folders.items():
            fold, setting = self._parse(job)
            tries += read_epochs(folder, fold, setting)
            ends += read_ends(folder, fold, setting)
        return best_of(tries, metrics, setting_name=self.turned, ends=ends)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Folds, what is fitted and how long."""
        folds = self._folds(bundle)
        return {
            "folds": self.folds,
            "run_folds": self.run_folds,
            "groups_in_T": len(folds[0].train),
            "groups_in_V": len(folds[0].ask),
            **self.shown(),
            "epochs": self.epochs,
            "judged_as": "difference to the floor",
        }

    def cost(self, bundle: DataBundle) -> AttackCost:
        """Forward and backward for every row of T in every epoch, and scores before and after each."""
        steps = trained = scored = 0
        for fold in range(self.run_folds):
            lesson = self.lesson(bundle, BARE, fold)
            rows = len(lesson.texts.rows)
            steps += len(self.swept) * self.epochs * -(-rows // self.batch_size)
            trained += len(self.swept) * self.epochs * rows
            asked = len(lesson.asked) + len(self.floor_rows(bundle))
            scored += len(self.swept) * asked * (1 + self.epochs)
        return AttackCost(len(self.plan(bundle)), steps, trained, scored)

    def asked_groups(self, bundle: DataBundle) -> int:
        """The groups of V in the folds that are run."""
        return len({group for fold in self._folds(bundle) for group in fold.ask})

    def _folds(self, bundle: DataBundle) -> list[Fold]:
        return make_folds(bundle.forget, self.folds, self.seed, "apart", self.name)[: self.run_folds]

    def _parse(self, job: str) -> tuple[int, float]:
        fold, _, setting = job.removeprefix("fold").partition(f"-{self.turned}")
        return int(fold), float(setting)

    def _fit(self, cached: CachedModel, lent: Lent, rows: Sequence[EncodedRow], rate: float) -> Iterator[bool]:
        """Yields after every epoch whether the loss stayed finite; ends where not."""
        given = [lent.text(row) for row in rows]
        optimizer = make_optimizer("adamw", lent.weights, rate)
        for order in shuffled_epochs(len(given), self.epochs, f"{self.name}-{self.seed}"):
            for start in range(0, len(order), self.batch_size):
                batch = [given[index] for index in order[start : start + self.batch_size]]
                try:
                    take_steps(optimizer, [batch], lambda rows: _add_gradients(cached, lent, rows), max_grad_norm=0.0)
                except DivergedError:
                    yield False
                    return
                lent.keep_bound()
            yield True


def _add_gradients(cached: CachedModel, lent: Lent, rows: Sequence[EncodedRow]) -> None:
    from ..data.pairing import pad_rows

    padded = pad_rows(rows, range(len(rows)), padding_id(cached.tokenizer, cached.model))
    device = cached.model.device
    batch = {
        "input_ids": padded["input_ids"].to(device),
        "attention_mask": padded["attention_mask"].to(device),
        "labels": padded["labels"].to(device),
    }
    with lent.applied():
        loss = mean_label_loss(cached.model, batch)
        finite(loss.item())
        loss.backward()


def _asked_within(
    cached: CachedModel, asked: Mapping[str, Sequence[Example]], attacked: Attacked, lent: Lent
) -> list[ScoredRow] | None:
    """Scores with what was fitted; ``None`` where it broke the model."""
    from ..evaluation.scoring import NotFiniteError

    try:
        with lent.applied():
            return _ask(cached, asked, attacked, lent)
    except NotFiniteError:
        return None


def _ask(
    cached: CachedModel, asked: Mapping[str, Sequence[Example]], attacked: Attacked, lent: Lent | None
) -> list[ScoredRow]:
    """Records of rows and their options, given to the model as it is fitted to have them."""
    from ..evaluation.batch_runner import Passes
    from ..evaluation.metrics import apply_metrics
    from ..evaluation.scoring import LabelledText, right_choice, score_texts
    from ..models.memory import batch_budget

    model, tokenizer, fmt = cached.model, cached.tokenizer, attacked.text_format
    rows = [(name, row) for name, members in asked.items() for row in members]

    def given(encoded: EncodedRow) -> LabelledText:
        return LabelledText(encoded if lent is None else lent.text(encoded))

    texts = []
    for _, row in rows:
        texts.append(given(encode_row(row, tokenizer, fmt, eos=False)))
        texts += [given(encode_answer(row, option, tokenizer, fmt)) for option in row.choices]
    origins = {row.id: row.origin or row.id for _, row in rows}
    scores = iter(score_texts(model, texts, Passes(batch_budget("auto", model.device)), origins=origins))
    records = []
    for name, row in rows:
        own, options = next(scores), [next(scores) for _ in row.choices]
        records.append(
            ScoredRow(
                row.id,
                row.fact,
                row.group,
                name,
                logps=own.logps,
                hits=own.hits,
                choice_logps=tuple(sum(option.logps) for option in options),
                choice_lengths=tuple(len(option.logps) for option in options),
                right_choice=right_choice(row),
                answer=row.answer,
            )
        )
    return apply_metrics(records, attacked.metrics)
