"""Scores while a model unlearns: what ``eval_strategy`` and ``trainer.evaluate()`` ask of any set of rows.

Answers are scored as ``hf-unlearn evaluate`` scores them: their tokens alone, without what ends them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from ..data.encoding import EncodedRow, TextFormat, check_chat_template, encode_rows
from ..data.example import Example
from ..data.pairing import IGNORED, PaddedRows, pad_rows
from ..errors import RequestError
from ..losses.base import label_positions
from ..losses.fused import label_logps
from ..models.ends import spread
from ..models.limits import refuse_unfit
from ..registry import suggest
from .config import UnlearnConfig
from .dataset import names_file, read_evaluated
from .forward import forward_labels
from .hub import HubTrainer

if TYPE_CHECKING:
    from .dataset import RowsGiven

Arrays = tuple[np.ndarray, ...]


class ScoredRows(Dataset[EncodedRow]):
    """Encoded rows that are scored and not trained on."""

    def __init__(self, rows: Sequence[EncodedRow]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EncodedRow:
        return self.rows[index]


@dataclass(frozen=True)
class ScoredSets:
    """Makes data sets into rows to score.

    Attributes:
        model: The model; only what it can read is looked at.
        tokenizer: Its tokenizer.
        text_format: How prompt and answer become one text.
        args: ``max_length`` and ``truncation`` are used.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    text_format: TextFormat
    args: UnlearnConfig

    def read(self, given: RowsGiven | Mapping[str, RowsGiven]) -> ScoredRows | dict[str, ScoredRows]:
        """Rows to score, by set name if there are several sets.

        Args:
            given: See the argument ``eval_dataset`` of the trainer.

        Raises:
            RequestError: A set is empty or of another type, or a row cannot be used.
        """
        read = read_evaluated(given)
        return (
            {name: self.encoded(rows) for name, rows in read.items()} if isinstance(read, dict) else self.encoded(read)
        )

    def trained_on(self, forget: Sequence[Example], retain: Sequence[Example] | None) -> dict[str, ScoredRows]:
        """What a run is scored on that was given nothing else: its forget rows, and at most as many retain rows."""
        kept = spread(retain or (), len(forget)) if retain else []
        return {name: self.encoded(rows) for name, rows in (("forget", forget), ("retain", kept)) if rows}

    def encoded(self, rows: Sequence[Example]) -> ScoredRows:
        """Rows as token ids."""
        check_chat_template(self.tokenizer, self.text_format, rows)
        cut = cast(Literal["refuse", "cut"], self.args.truncation)
        length = self.args.max_length
        encoded = encode_rows(rows, self.tokenizer, self.text_format, eos=False, max_length=length, truncation=cut)
        refuse_unfit(self.model, encoded, {row.id: row.origin for row in rows})
        return ScoredRows(encoded)


class ScoringTrainer(HubTrainer):
    """The part of :class:`~hf_unlearn.trainer.unlearn_trainer.UnlearnTrainer` that scores rows.

    Evaluations change nothing about the training that goes on after them.

    Attributes:
        sets: Makes data sets into rows to score.
        own_rows: What is scored if no evaluation set was given.
        is_evaluating: Whether an evaluation is going on.
    """

    sets: ScoredSets
    own_rows: Callable[[], dict[str, ScoredRows]]
    is_evaluating: bool = False
    pad_token_id: int

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Scores rows; see [`~transformers.Trainer.evaluate`].

        Every process has to call this.

        Args:
            eval_dataset: A set, a dictionary of sets, or the name of one of the sets that the trainer was given. By
                default all that it was given, or else the forget and retain rows that it trains on.
            ignore_keys: Not used.
            metric_key_prefix: What the names of the scores begin with.

        Returns:
            For each set its `eval_NAME_loss` (mean negative log-likelihood of the answers' tokens, in nats),
            `eval_NAME_probability` (geometric mean of the probabilities of an answer's tokens, mean over rows), what
            `compute_metrics` returns, and the time that it took. A set without a name has `eval_loss` and so on.

        Raises:
            RequestError: A set is empty or of another type, there is no set of that name, or a row cannot be used.
        """
        if self.eval_dataset is None and (eval_dataset is None or isinstance(eval_dataset, str)):
            self.eval_dataset = self.own_rows()
        if eval_dataset is not None and not self._is_read(eval_dataset):
            if isinstance(eval_dataset, str):
                _refuse_unknown_set(eval_dataset, self.eval_dataset)
            eval_dataset = self.sets.read(eval_dataset)
        outer, self.is_evaluating = self.is_evaluating, True
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.is_evaluating = outer

    def _is_read(self, given: Any) -> bool:
        """Rows to score, or the name of some, which the parent class looks up."""
        if isinstance(given, str):
            return isinstance(self.eval_dataset, dict) and given in self.eval_dataset
        sets = list(given.values()) if isinstance(given, dict) else [given]
        return bool(sets) and all(isinstance(rows, ScoredRows) for rows in sets)

    def predict(self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test") -> Any:
        """Refused: [`evaluate`] scores rows, and the model itself generates.

        Raises:
            RequestError: Always.
        """
        raise RequestError("predict is not supported: score rows with trainer.evaluate(SET), or use model.generate")

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """All rows, one by one in a batch; those that are trained on come in pairs, and some may be left out."""
        pairs, self.data_collator = self.data_collator, cast(Any, self._padded)
        drops, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self.args.dataloader_drop_last = pairs, drops

    def _padded(self, rows: Sequence[EncodedRow]) -> PaddedRows:
        return pad_rows(rows, range(len(rows)), self.pad_token_id)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """The parent class averages over batches; a score does not depend on how rows are batched."""
        # A data loader draws a seed from the state that the next training step goes on from.
        with torch.random.fork_rng(devices=[]):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        logps, *_ = cast(Arrays, output.predictions)
        scores = answer_scores(logps, cast(np.ndarray, output.label_ids))
        named = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        return output._replace(metrics={**named, **(output.metrics or {})})

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Any, Tensor]:
        """One batch.

        Returns:
            No loss, which is computed over all batches; log-probabilities of the labels ``[rows, time]`` where labels
            are, and logits ``[rows, time, vocabulary]`` if ``compute_metrics`` was given; labels ``[rows, time]``.
        """
        rows: Any = self._prepare_inputs(inputs)
        labels = rows["labels"]
        with self.compute_loss_context_manager():
            if prediction_loss_only:
                scores = forward_labels(model, self.accelerator.unwrap_model(model), rows).scores()
                return None, (_at_labels(scores.logps, labels),), labels
            output = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False)
            seen = label_positions(labels)
            logps = label_logps(output.logits[seen], labels[:, 1:][seen[:, :-1]])
            return None, (_at_labels(logps, labels), output.logits), labels


def _refuse_unknown_set(name: str, sets: Any) -> None:
    """Refuse a word that names no set, rather than ask the Hub for a data set that is called so.

    Args:
        name: No set's name. Files, folders and ids with an owner are left to what reads them.
        sets: The sets that the trainer has, by name; or one without a name.

    Raises:
        RequestError: Names the nearest set.
    """
    if "/" in name or names_file(name) or Path(name).exists():
        return
    known = suggest(name, list(sets)) if isinstance(sets, dict) else "the only one has no name: evaluate() scores it"
    raise RequestError(f"there is no set {name!r}: {known}")


def _at_labels(logps: Tensor, labels: Tensor) -> Tensor:
    """``[N]`` log-probabilities in row order at their labels' places in ``[rows, time]``; zero elsewhere."""
    placed = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
    placed[labels != IGNORED] = logps.float()
    return placed


def answer_scores(logps: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The scores of a set.

    Args:
        logps: ``[rows, time]``, log-probabilities of the labels.
        labels: ``[rows, time]``, -100 where there is none; every row has some.

    Returns:
        ``loss``: mean negative log-likelihood of a label, in nats. ``probability``: geometric mean over a row's
        labels, mean over rows.
    """
    seen = labels != IGNORED
    total = np.where(seen, logps, 0).astype(np.float64).sum(axis=1)
    lengths = seen.sum(axis=1)
    return {"loss": float(-total.sum() / lengths.sum()), "probability": float(np.exp(total / lengths).mean())}


def of_logits(compute_metrics: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A user's ``compute_metrics``, given logits and labels as by [`~transformers.Trainer`]."""
    if compute_metrics is None:
        return None

    def compute(found: EvalPrediction) -> Any:
        predictions = cast(Arrays, found.predictions)
        return compute_metrics(EvalPrediction(predictions=predictions[1], label_ids=found.label_ids))

    return compute


def before_gathering(preprocess: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A user's ``preprocess_logits_for_metrics``, which makes less of the logits of a batch.

    Without it, the logits of a whole set are kept.
    """
    if preprocess is None:
        return None

    def smaller(outputs: tuple[Tensor, ...], labels: Tensor) -> tuple[Any, ...]:
        logps, *logits = outputs
        return (logps, *(preprocess(each, labels) for each in logits))

    return smaller
