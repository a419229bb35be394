"""Who's Harry Potter: forget rows are relabelled with the words of somebody who never read them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.encoding import EncodedRow
from ..errors import RequestError
from ..models.training_loop import DivergedError, finite, take_steps
from ..runtime.files import write_atomically
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .weights import Weights, trained_parameters

TARGETS_FILE = "generic_labels.json"
_MOST_LOGITS = 2**28
"""How many logits of one model are held at once (1 GiB in float32)."""


@ROBUST.register(
    "who-is-harry-potter",
    summary="Forget rows are trained on generic labels, found with a model that learned the rows even better.",
    paper="arXiv 2310.02238",
    defaults={"alpha": 5.0, "learning_rate": 3e-6, "epochs": 3, "batch_size": 16, "seed": 0},
)
@dataclass
class WhoIsHarryPotter(TrainingPart):
    r"""Reinforces the forget set, and trains the original model on what reinforcement made no likelier.

    Before the first step the model is trained on the forget rows (AdamW, constant rate), which gives the *reinforced*
    model, and then put back. At every label of a forget row the generic label is the likeliest token under

    .. math:: v_{generic} = v_{original} - \alpha \, \mathrm{ReLU}\left(v_{reinforced} - v_{original}\right)

    with ``v`` the logits after the row's true tokens. The run itself then is cross-entropy to these labels from the
    original weights: ``loss_type: nll``, with any retain loss or none.

    Two things differ from the paper. Its second source of generic labels, a dictionary of the text's own terms and
    plain words for them, was written by another model for one book and is left out. And public benchmark code
    (MUSE) uses the formula for every token at inference, which takes two models; here as in the paper one is trained.

    The generic labels are kept in the output folder and read back when a run is resumed. Reinforcing is not: a run
    that is stopped while it reinforces does so again. Every process reinforces for itself, with the same result.

    Cost: ``epochs`` forward and backward passes over the forget set, two forward passes over it, and an optimizer's
    memory for that long; a copy of the trained weights in the CPU's memory. The run itself: as with any loss.

    Args:
        alpha: How much a token loses for having become likelier, above 0.
        learning_rate: Of reinforcing. The default is for models of 7 billion parameters.
        epochs: Of reinforcing.
        batch_size: Rows in a step of reinforcing; they go through the model in the run's own micro-batches.
        seed: Of the order of rows while reinforcing.

    Raises:
        RequestError: A number is out of range, the forget loss is another one, or reinforcing diverged.

    Source: Eldan and Russinovich, *Who's Harry Potter? Approximate Unlearning in LLMs* (arXiv 2310.02238).
    """

    alpha: float = 5.0
    learning_rate: float = 3e-6
    epochs: int = 3
    batch_size: int = 16
    seed: int = 0
    _labels: list[tuple[int, ...]] = field(default_factory=list, init=False, repr=False)

    needs_whole_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("alpha", "learning_rate"):
            if not getattr(self, name) > 0:
                raise RequestError(f"who-is-harry-potter: {name} is {getattr(self, name)}; it must be above 0")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise RequestError(f"who-is-harry-potter: {name} is {getattr(self, name)}; it must be at least 1")

    def check(self, config: Any) -> None:
        """Refuses a forget loss that does not learn."""
        if config.loss_type != "nll":
            raise RequestError(
                f"who-is-harry-potter trains on generic labels, which {config.loss_type} would unlearn: set loss_type "
                "to nll"
            )
        if config.fp16:
            raise RequestError("who-is-harry-potter takes steps of its own, which fp16 would have to scale: use bf16")

    def prepare(self, context: TrainingContext) -> None:
        """Finds the generic labels, or reads those of the run that is resumed."""
        path = context.output_dir / TARGETS_FILE
        if context.resuming:
            self._labels = _load(path, context.forget_rows)
            return
        original = Weights(context.model)
        with torch.enable_grad():
            self._reinforce(context)
        reinforced = Weights(context.model)
        self._labels = list(self._generic_labels(context, original, reinforced))
        original.put_back(context.model)
        if context.writes:
            _save(path, self._labels)

    def relabel(self, rows: Sequence[EncodedRow]) -> Sequence[EncodedRow]:
        """The forget rows with generic labels; what the model reads stays as it was."""
        return [replace(row, labels=labels) for row, labels in zip(rows, self._labels, strict=True)]

    def _reinforce(self, context: TrainingContext) -> None:
        trained = trained_parameters(context.model).values()
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0)
        rows = list(context.forget_rows)
        for epoch in range(self.epochs):
            random.Random(f"reinforce-{self.seed}-{epoch}").shuffle(rows)
            batches = (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))
            try:
                take_steps(optimizer, batches, lambda batch: _add_gradients(context, batch), max_grad_norm=1.0)
            except DivergedError as error:
                raise RequestError(
                    f"who-is-harry-potter: the loss is {error.loss} in epoch {epoch + 1} of reinforcing; lower its "
                    f"learning_rate (now {self.learning_rate})"
                ) from None

    @torch.no_grad()
    def _generic_labels(
        self, context: TrainingContext, original: Weights, reinforced: Weights
    ) -> Iterator[tuple[int, ...]]:
        for part in _in_parts(context.forget_rows, _vocabulary(context)):
            logits = []
            for weights in (original, reinforced):
                weights.put_back(context.model)
                logits.append(torch.cat([_logits(context, batch) for batch in context.batches(part)]))
            labels = generic_labels(logits[0], logits[1], self.alpha).tolist()
            for row in part:
                count = len(row.input_ids) - row.n_prompt
                yield tuple(labels[:count])
                del labels[:count]


def generic_labels(original: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """The likeliest tokens among those that reinforcing did not make likelier.

    Args:
        original: ``[N, vocabulary]`` logits of the original model.
        reinforced: ``[N, vocabulary]`` logits of the model that learned the rows even better.
        alpha: See :class:`WhoIsHarryPotter`.

    Returns:
        ``[N]`` token ids.
    """
    return (original - alpha * F.relu(reinforced - original)).argmax(dim=-1)


def _add_gradients(context: TrainingContext, rows: Sequence[EncodedRow]) -> None:
    """Gradients of the mean negative log-probability over the labels of these rows."""
    n_labels = sum(len(row.input_ids) - row.n_prompt for row in rows)
    for batch in context.batches(rows):
        loss = -context.score(batch).logps.sum() / n_labels
        finite(loss.item())
        loss.backward()


def _logits(context: TrainingContext, batch: Any) -> Tensor:
    logits = context.score(batch).logits
    assert logits is not None  # score asks for them
    return logits.float()


def _vocabulary(context: TrainingContext) -> int:
    head: Any = context.model
    return int(head.get_output_embeddings().weight.shape[0])


def _in_parts(rows: Sequence[EncodedRow], vocabulary: int) -> Iterator[list[EncodedRow]]:
    part: list[EncodedRow] = []
    labels = 0
    for row in rows:
        count = len(row.input_ids) - row.n_prompt
        if part and (labels + count) * vocabulary > _MOST_LOGITS:
            yield part
            part, labels = [], 0
        part.append(row)
        labels += count
    yield part


def _save(path: Path, labels: Sequence[tuple[int, ...]]) -> None:
    write_atomically(path, json.dumps(labels))


def _load(path: Path, rows: Sequence[EncodedRow]) -> list[tuple[int, ...]]:
    try:
        labels = [tuple(map(int, row)) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"{path} is missing or damaged, and generic labels cannot be found again at changed weights: delete the "
            "checkpoints next to it and start this training again"
        ) from error
    if [len(row) for row in labels] != [len(row.input_ids) - row.n_prompt for row in rows]:
        raise RequestError(f"{path} belongs to other forget rows: start this training in another folder")
    return labels
