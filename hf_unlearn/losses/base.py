"""What every loss is given, and what it gives back.

A loss sees one micro-batch, but its mean runs over the *global* batch: all micro-batches of one optimizer step, on all
processes. So a loss returns a sum, says what it counts, and the trainer divides by the global count.
Then gradient accumulation, the order of rows and the number of processes only change rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from .fused import label_logps

IGNORED = -100
"""Label of a position that no loss uses: prompt, padding, anything masked."""


def label_positions(labels: Tensor) -> Tensor:
    """Where a model predicts something that counts.

    Args:
        labels: ``[batch, time]``, unshifted: ``labels[b, t]`` is ``input_ids[b, t]``, or -100 where it is ignored.

    Returns:
        ``[batch, time]`` booleans; position ``t`` is true if the *next* token is a label.
    """
    positions = torch.zeros_like(labels, dtype=torch.bool)
    positions[:, :-1] = labels[:, 1:] != IGNORED
    return positions


def count_tokens(labels: Tensor) -> Tensor:
    """How many labels of ``[batch, time]`` can be predicted (the first token of a row cannot), as a scalar."""
    return label_positions(labels).sum()


def count_rows(labels: Tensor) -> Tensor:
    """How many rows of ``[batch, time]`` have at least one label that can be predicted, as a scalar."""
    return label_positions(labels).any(dim=1).sum()


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities over the last dimension, computed in at least single precision."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits.to(wide), dim=-1)


@dataclass(frozen=True)
class LossSum:
    """A loss before it is averaged.

    Attributes:
        total: Scalar, the sum over this micro-batch.
        count: Scalar integer, how many terms were summed.
    """

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over this micro-batch alone; zero if nothing was counted."""
        return self.total / self.count.clamp(min=1)


@dataclass(frozen=True)
class LabelScores:
    """What a model says at the ``N`` label positions of one micro-batch, rows in order, positions from left to right.

    Attributes:
        logits: ``[N, vocabulary]``; ``None`` if the forward pass stopped before the output head.
        labels: ``[N]``, the token that really follows.
        rows: ``[N]``, the row of the micro-batch each position belongs to.
        n_rows: Rows of the micro-batch, those without any label included.
        hidden: ``[N, width]``, what the decoder layer :attr:`Loss.hidden_layer` gave at these positions.
        reference_logps: ``[n_rows]``, summed label log-probabilities of each row under the reference model.
        reference_logits: ``[N, vocabulary]`` of the reference model.
        reference_hidden: ``[N, width]`` of the reference model, after the same layer.
        alternates: The model's scores of other answers to the same prompts, row by row.
    """

    logits: Tensor | None
    labels: Tensor
    rows: Tensor
    n_rows: int
    reference_logps: Tensor | None = None
    reference_logits: Tensor | None = None
    hidden: Tensor | None = None
    reference_hidden: Tensor | None = None
    alternates: LabelScores | None = None

    @property
    def n_labels(self) -> Tensor:
        """``N`` as a scalar tensor."""
        return torch.tensor(self.labels.numel(), device=self.labels.device)

    @cached_property
    def all_logps(self) -> Tensor:
        """``[N, vocabulary]`` log-probabilities."""
        return log_softmax(given(self.logits, "logits"))

    @cached_property
    def logps(self) -> Tensor:
        """``[N]`` log-probabilities of the labels."""
        if "all_logps" in self.__dict__:  # somebody has made them already
            return self.all_logps.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1)
        return label_logps(given(self.logits, "logits"), self.labels)

    @cached_property
    def row_logps(self) -> Tensor:
        """``[n_rows]`` label log-probabilities summed over each row; zero where a row has no label."""
        return self.logps.new_zeros(self.n_rows).index_add(0, self.rows, self.logps)

    @cached_property
    def row_lengths(self) -> Tensor:
        """``[n_rows]``, how many labels each row has."""
        return torch.bincount(self.rows, minlength=self.n_rows)

    def mean_over_rows(self, values: Tensor) -> LossSum:
        """Every row with labels counts once: the sum over rows of the mean of ``values`` ``[N]`` over the row."""
        shares = values / self.row_lengths[self.rows]
        return LossSum(shares.sum(), self.row_has_labels.sum())

    @cached_property
    def row_has_labels(self) -> Tensor:
        """``[n_rows]`` booleans."""
        return self.row_lengths > 0


def given(value: Tensor | None, what: str) -> Tensor:
    """A field of :class:`LabelScores` that a loss cannot do without.

    Raises:
        ValueError: It was not filled, although the loss declares that it uses it.
    """
    if value is None:
        raise ValueError(f"this loss needs {what}, and they were not given")
    return value


class Loss(ABC):
    """One term of the unlearning objective.

    Only what a loss uses is filled in :class:`LabelScores`.

    Attributes:
        uses_logits: Whether :attr:`LabelScores.logits` has to be filled. If no active loss uses logits, the
            forward pass stops after the last hidden layer in use.
        uses_reference_logps: Whether :attr:`LabelScores.reference_logps` has to be filled.
        uses_reference_logits: Whether :attr:`LabelScores.reference_logits` has to be filled.
        uses_reference_hidden: Whether :attr:`LabelScores.reference_hidden` has to be filled.
        uses_alternates: Whether :attr:`LabelScores.alternates` has to be filled (forget losses only). What is said
            above of the reference then holds for the alternates too.
        uses_alternate_labels: Whether of the alternates only the labels are looked at, so that they cost no pass.
        default_alternates: Where alternates come from unless the method says so; a name among
            :data:`hf_unlearn.data.alternates.ALTERNATES`. ``None``: the method has to say so.
        uses_labels: Whether the rows' own answers are looked at; a loss on alternates alone costs no pass over them.
        hidden_layer: Index of the decoder layer, from 0, whose output :attr:`LabelScores.hidden` is; ``None`` for
            none.
        metric: A second name its mean is logged under, where the loss is itself a quantity people know.
    """

    uses_logits: ClassVar[bool] = True
    uses_reference_logps: ClassVar[bool] = False
    uses_reference_logits: ClassVar[bool] = False
    uses_reference_hidden: ClassVar[bool] = False
    uses_alternates: ClassVar[bool] = False
    uses_alternate_labels: ClassVar[bool] = False
    default_alternates: ClassVar[str | None] = None
    uses_labels: ClassVar[bool] = True
    metric: ClassVar[str | None] = None

    @property
    def hidden_layer(self) -> int | None:
        """Index of the decoder layer whose output is needed."""
        return None

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """Decoder layers of which only the MLP's output projections are trained, unless the method names the
        parameters; none for a loss that trains the whole model."""
        return ()

    @property
    def needs_alternates(self) -> bool:
        """Whether every forget row needs another answer to its prompt."""
        return self.uses_alternates or self.uses_alternate_labels

    @property
    def needs_reference(self) -> bool:
        """Whether it uses the target model at all."""
        return self.uses_reference_logps or self.uses_reference_logits or self.uses_reference_hidden

    @abstractmethod
    def count(self, labels: Tensor) -> Tensor:
        """The number of terms in a micro-batch, known before any forward pass.

        Args:
            labels: ``[batch, time]`` labels, -100 where ignored; those of the alternates if the rows' own
                answers are not used (:attr:`uses_labels`).

        Returns:
            Scalar integer; equal to :attr:`LossSum.count` of the same micro-batch.
        """

    @abstractmethod
    def __call__(self, scores: LabelScores) -> LossSum:
        """The sum of the terms of one micro-batch."""
