"""Attacks that fine-tune at several rates and score between epochs. Shared by all of them."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..data.encoding import TextFormat
from ..data.example import DataBundle, Example
from ..evaluation.records import ScoredRow, fact_scores, write_records
from ..runtime.processes import world_size
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_ends, read_epochs
from .cost import AttackCost
from .model_cache import borrowed
from .retrained_model import Retraining, Texts
from .retraining_settings import RetrainingSettings
from .sharded import sharded_retraining
from .tuning import check_optimizer

SHARDS = "shards.json"
"""Of a sharded job: how weights lay on the processes."""


@dataclass(frozen=True)
class Lesson:
    """What a job trains on, and what it asks for afterwards.

    Attributes:
        texts: What is trained on.
        asked: What is scored, as the set ``forget``.
        asked_format: How that becomes text, where not in the data's own way.
        holdout: What is scored beside it, in the same way, as the set ``holdout``.
        first: What is trained on before, at the same rate and with an optimizer of its own.
        first_epochs: Passes over that; they are counted among the epochs.
    """

    texts: Texts
    asked: Sequence[Example]
    asked_format: TextFormat | None = None
    holdout: tuple[Example, ...] = ()
    first: Texts | None = None
    first_epochs: int = 0


class RetrainingAttack(RetrainingSettings, Attack):
    """An attack that fine-tunes at several learning rates, one job each, and asks for forgotten facts.

    Jobs are called ``lr<rate>``, and ``fold<N>-lr<rate>`` where facts are split and each fold is asked for in turn.
    """

    edits_weights: ClassVar[bool] = True

    @abstractmethod
    def lesson(self, bundle: DataBundle, text_format: TextFormat, fold: int = 0) -> Lesson:
        """What one fold trains on and asks for.

        Raises:
            RequestError: The data cannot be attacked this way.
        """

    @abstractmethod
    def given(self, bundle: DataBundle) -> dict[str, Any]:
        """What the attacker is given, for the head of the budget."""

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job per rate."""
        self.lesson(bundle, TextFormat())
        return [f"lr{rate!r}" for rate in self.learning_rates]

    def check(self, attacked: Attacked) -> None:
        """Refuse adapters that do not fit."""
        self.trained.check_model(self.name, attacked.folder)

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Fine-tune at one rate; write what is asked for per epoch: see :func:`retrain_and_score`."""
        fold, rate = _parse(job)
        lesson = self.lesson(attacked.bundle, attacked.text_format, fold)
        lesson = replace(lesson, holdout=self.floor_rows(attacked.bundle))
        retrain_and_score(self, rate, attacked, lesson, out)

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """Per metric and fold the best rate and epoch; facts of all folds together."""
        tries, ends = [], []
        for job, folder in folders.items():
            fold, rate = _parse(job)
            tries += read_epochs(folder, fold, rate)
            ends += read_ends(folder, fold, rate)
        return best_of(tries, metrics, ends=ends)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """What is given, rates, epochs and steps."""
        rows = len(self.lesson(bundle, TextFormat()).texts.rows)
        return {**self.given(bundle), **self.describe(rows)}

    def cost(self, bundle: DataBundle) -> AttackCost:
        """Training at every rate, and scoring before the first epoch and after each."""
        jobs, lesson = len(self.plan(bundle)), self.lesson(bundle, TextFormat())
        first = lesson.first_epochs * self.steps_per_epoch(len(lesson.first.rows)) if lesson.first else 0
        steps = jobs * (first + self.step_count(len(lesson.texts.rows)))
        passes = 1 + lesson.first_epochs + self.epochs
        scored = jobs * (self.asked_rows(bundle) + len(self.floor_rows(bundle))) * passes
        return AttackCost(jobs, steps, steps * self.batch_size, scored)

    def asked_rows(self, bundle: DataBundle) -> int:
        """About how many rows a job asks for: at most those of the whole forget set."""
        return len(bundle.forget.score)


def _parse(job: str) -> tuple[int, float]:
    """Fold (0 where facts are not split) and rate in a job's name."""
    fold, rate = job.split("lr")
    return int(fold.removeprefix("fold").removesuffix("-") or 0), float(rate)


def retrain_and_score(
    settings: RetrainingSettings, rate: float, attacked: Attacked, lesson: Lesson, out: Path
) -> None:
    """Fine-tune a model on some rows; write the records of others per epoch as ``epoch<N>.jsonl`` (0 is before).

    A rate that diverges is recorded in ``diverged.json``, one that is given up in ``stopped.json``; both end there: a
    failed attack is a result.

    Args:
        settings: How it is fine-tuned.
        rate: The learning rate.
        attacked: The model; metrics that need more than likelihoods are left out.
        lesson: What it is trained on, and what it is asked for.
        out: An existing folder; of a sharded job it gets ``shards.json`` too.
    """
    if lesson.asked_format is not None:
        attacked = replace(attacked, text_format=lesson.asked_format)
    stopping = EarlyStopping(settings.patience)
    with retraining(settings, attacked.folder) as model:
        if (shards := model.shards()) is not None:
            (out / SHARDS).write_text(json.dumps(shards), encoding="utf-8")
        before = model.score_untouched(lesson.asked, attacked, lesson.holdout)
        write_records(out / "epoch0.jsonl", before)
        stopping.goes_on(before)
        last = lesson.first_epochs + settings.epochs
        for epoch, stays_finite in enumerate(_epochs(model, lesson, rate), start=1):
            records = model.score(lesson.asked, attacked, lesson.holdout) if stays_finite else None
            if records is None:
                note_end(out, "diverged", epoch)
                return
            write_records(out / f"epoch{epoch}.jsonl", records)
            # What comes first is not there to bring anything back.
            if epoch > lesson.first_epochs and not stopping.goes_on(records) and epoch < last:
                note_end(out, "stopped", epoch)
                return


def _epochs(model: Retraining, lesson: Lesson, rate: float) -> Iterator[bool]:
    """Every epoch of a lesson, what comes first included; yields whether the loss stayed finite, ends where not."""
    stays_finite = True
    if lesson.first is not None:
        for stays_finite in model.epochs(lesson.first, rate, lesson.first_epochs):
            yield stays_finite
    if stays_finite:
        yield from model.epochs(lesson.texts, rate)


def note_end(out: Path, how: str, epoch: int) -> None:
    """Note in a job's folder that it ended early, and after which epoch: see :class:`~.best.End`."""
    (out / f"{how}.json").write_text(json.dumps({"epoch": epoch}), encoding="utf-8")


@contextmanager
def retraining(settings: RetrainingSettings, folder: Path) -> Iterator[Retraining]:
    """The model of a folder in the attacker's hands; afterwards it is as it was, ready for the next job.

    Raises:
        RequestError: The model cannot be trained like this.
        MissingExtraError: A library that the settings need is not installed.
    """
    name, dtype = settings.name, settings.steps.dtype
    check_optimizer(settings.steps.optimizer, dtype, name)
    if settings.sharded and world_size() > 1:
        with sharded_retraining(settings, folder) as retraining_in_shards:
            yield retraining_in_shards
        return
    with (
        borrowed(folder, dtype, edits=settings.tuning == "full") as cached,
        settings.trained.applied(name, cached.model, settings.order) as trained,
    ):
        yield Retraining(settings, cached, trained)


LEAST_GAIN = 0.005


class EarlyStopping:
    """Watches the scores of one job, epoch by epoch.

    A gain is a metric whose mean over facts is more than 0.005 above its best so far. Rates that are too timid and
    rates that have broken the model both stop gaining; what is lost by giving up is at most what so slow a climb would
    still have brought. Holdout facts, asked beside what the attacker is after, do not count.

    Args:
        patience: Epochs in a row without gain after which the rate is given up; 0 never gives up.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best: dict[str, float] = {}
        self._idle = 0

    def goes_on(self, records: Sequence[ScoredRow]) -> bool:
        """Take the next epoch's scores; whether another epoch is worth it."""
        means = {name: facts.mean for (split, name), facts in fact_scores(records).items() if split != "holdout"}
        gained = [name for name, mean in means.items() if mean > self._best.get(name, -1.0) + LEAST_GAIN]
        for name in gained:
            self._best[name] = means[name]
        self._idle = 0 if gained else self._idle + 1
        return not self._patience or self._idle < self._patience
