"""A model in the hands of somebody who fine-tunes it, scored between epochs. Shared by all attacks that retrain."""

from __future__ import annotations

import json
import pkgutil
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from ..data.encoding import EncodedRow, TextFormat, encode_row
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import ScoredRow, fact_scores, write_records
from ..models.limits import padding_id
from ..models.training_loop import DivergedError, finite, take_steps
from ..runtime.processes import world_size
from .base import Attack, Attacked, AttackResult
from .best import best_of, read_ends, read_epochs
from .cost import AttackCost
from .model_cache import CachedModel, borrowed
from .scoring import score_attacked, score_untouched
from .tuning import LORA_RATE_FACTOR, OPTIMIZERS, Kind, OptimizerName, Tuning, check_optimizer, make_optimizer

if TYPE_CHECKING:
    import torch

SHARDS = "shards.json"
"""Of a sharded job: how weights lay on the processes."""
LossTokens = Literal["answer", "all"]
Dtype = Literal["float32", "bfloat16", "float16"]
Settings = TypeVar("Settings", bound="RetrainingSettings")


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How every step is taken. Most attacks take these as they are; where a recipe may set them they are its keys.

    Attributes:
        loss_tokens: ``answer`` trains on the answers only, ``all`` on every token of the rows.
        max_tokens: Longer rows lose their beginning; whole if left out.
        lora_targets: Layers that get adapters; all linear layers except the output head if left out.
        optimizer: ``adamw``, ``lion``, ``adamw_8bit`` (8-bit states) or ``paged_adamw_8bit`` (the same, paged; needs a
            GPU), without weight decay.
        dtype: Type of the weights while they are trained.
        max_grad_norm: Gradient clipping; 0 turns it off.
    """

    loss_tokens: LossTokens = "answer"
    max_tokens: int | None = None
    lora_targets: tuple[str, ...] = ()
    optimizer: OptimizerName = "adamw"
    dtype: Dtype = "float32"
    max_grad_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RetrainingSettings:
    """Keys of every attack that retrains, and how each job of it fine-tunes.

    Attributes:
        learning_rates: Rates of the sweep; the attacker keeps the best.
        epochs: Passes over the rows; what is asked for is scored after each.
        batch_size: Rows per step.
        warmup_steps: Linear warm-up, then constant.
        tuning: ``full`` trains all weights, ``lora`` trains adapters, ``auto`` trains all weights if they fit the
            device and adapters otherwise.
        lora_rank: Rank of the adapters; their scale is twice of it. With ``auto`` the largest that fits.
        optimizer: ``adamw``, ``lion``, ``adamw_8bit`` (8-bit states) or ``paged_adamw_8bit`` (the same, paged; needs a
            GPU), without weight decay.
        patience: Early stopping: a rate ends after this many epochs without gain; 0 turns it off.
        seed: Seed of the order of rows.
        bf16: Computes in bfloat16 where autocast allows it, in training and in the scores between epochs; weights and
            steps stay as they are. Several times as fast on GPUs and on processors with bfloat16 instructions, slower
            on others.
        sharded: Under a launcher each job runs over all processes, which hold the model in shards (FSDP2). With
            ``auto`` where nothing fits one device.

    Raises:
        RequestError: A setting makes no sense. Names the attack and the key.
    """

    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    epochs: int = 1
    batch_size: int = 16
    warmup_steps: int = 0
    tuning: Kind = "full"
    lora_rank: int = 16
    optimizer: OptimizerName = field(default="adamw", metadata={"left_out_at_default": True})
    patience: int = 0
    seed: int = 0
    bf16: bool = field(default=False, metadata={"left_out_at_default": True})
    sharded: bool = field(default=False, metadata={"left_out_at_default": True})

    name: ClassVar[str] = "attack"

    @property
    def steps(self) -> StepSettings:
        """How every step is taken."""
        return StepSettings(optimizer=self.optimizer)

    @property
    def order(self) -> str | int:
        """Seeds the order of rows, and the adapters' first weights."""
        return f"{self.name}-{self.seed}"

    @property
    def decays(self) -> bool:
        """Whether the rate falls linearly to zero after the warm-up, instead of staying constant."""
        return False

    def rate_factor(self, step: int, steps: int) -> float:
        """The part of the learning rate that a step is taken with.

        Args:
            step: Which one, from 0.
            steps: How many there are in all. The first step after the warm-up has the whole rate; with a decay, the
                last one has one step's part of it, as in the Trainer's linear schedule.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return (steps - step) / (steps - self.warmup_steps) if self.decays else 1.0

    @property
    def trained(self) -> Tuning:
        """What of the model is trained."""
        return Tuning(self.tuning, self.lora_rank, self.steps.lora_targets)

    @property
    def needs_adapters(self) -> bool:
        """Whether any job trains adapters, for which peft is needed."""
        return self.tuning == "lora"

    def __post_init__(self) -> None:
        name, steps = self.name, self.steps
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise RequestError(f"{name}.learning_rates must name at least one rate above 0, and only such")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise RequestError(f"{name}.learning_rates names a rate twice: once is enough")
        check_least(name, "epochs", self.epochs, 1)
        check_least(name, "batch_size", self.batch_size, 1)
        check_least(name, "warmup_steps", self.warmup_steps, 0)
        check_least(name, "max_grad_norm", steps.max_grad_norm, 0)
        check_least(name, "patience", self.patience, 0)
        if steps.max_tokens is not None and steps.max_tokens < 2:
            raise RequestError(f"{name}.max_tokens is {steps.max_tokens}: a row has at least 2 tokens")
        check_optimizer(steps.optimizer, steps.dtype, name)
        if self.bf16 and steps.dtype != "float32":
            raise RequestError(
                f"{name}.bf16 computes float32 weights in bfloat16, and {name}.dtype is {steps.dtype}: leave one out"
            )
        if self.sharded and steps.optimizer != "adamw":
            raise RequestError(
                f"{name}.optimizer is {steps.optimizer}, whose states cannot be sharded: use adamw, or leave out "
                f"{name}.sharded"
            )
        self.trained.check(name)

    def settled(
        self: Settings, tuning: Tuning, optimizer: OptimizerName | None = None, *, sharded: bool | None = None
    ) -> Settings:
        """What ``tuning: auto`` comes to.

        Args:
            tuning: Of kind ``full`` or ``lora``.
            optimizer: Another one than these settings name.
            sharded: Whether over all processes of a launch, where that is decided too.

        Returns:
            For ``full`` the settings of a recipe that says so. For ``lora`` its rank, and learning rates for adapters:
            three times those for whole weights.
        """
        sharded = self.sharded if sharded is None else sharded
        if tuning.kind == "full":
            return replace(self, tuning="full", sharded=sharded)
        rates = tuple(float(f"{LORA_RATE_FACTOR * rate:.12g}") for rate in self.learning_rates)
        return replace(
            self,
            tuning="lora",
            lora_rank=tuning.rank,
            optimizer=optimizer or self.steps.optimizer,
            learning_rates=rates,
            sharded=sharded,
        )

    def step_count(self, rows: int) -> int:
        """Optimizer steps of one job that trains on so many rows."""
        return self.epochs * self.steps_per_epoch(rows)

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps of one pass over so many rows."""
        return -(-rows // self.batch_size)

    def describe(self, rows: int) -> dict[str, Any]:
        """Rates, epochs and steps on so many rows, and what the attacker trains with, as plain data for the report."""
        library = OPTIMIZERS[self.steps.optimizer]
        computed = ", computed in bfloat16" if self.bf16 else ""
        return {
            "learning_rates": list(self.learning_rates),
            "epochs": self.epochs,
            "steps_per_rate": self.step_count(rows),
            "optimizer": f"{library}, {self.trained.describe()} in {self.steps.dtype}{computed}",
            "loss_tokens": self.steps.loss_tokens,
            **({"schedule": "linear decay to zero"} if self.decays else {}),
            **({"gives_up_after": self.patience} if self.patience else {}),
        }


def check_least(name: str, key: str, value: float, least: float) -> None:
    """Refuse a value of an attack's key below the least one that makes sense: :class:`RequestError`."""
    if value < least:
        raise RequestError(f"{name}.{key} is {value}: it must be at least {least}")


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
        # By name: that module builds on this one.
        sharded_retraining = pkgutil.resolve_name("hf_unlearn.attacks.sharded:sharded_retraining")
        with sharded_retraining(settings, folder) as retraining_in_shards:
            yield retraining_in_shards
        return
    with (
        borrowed(folder, dtype, edits=settings.tuning == "full") as cached,
        settings.trained.applied(name, cached.model, settings.order) as trained,
    ):
        yield Retraining(settings, cached, trained)


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
        """What passes through the model are computed in."""
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
            loss: torch.Tensor = self.model(**self.pad(rows), use_cache=False).loss
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
