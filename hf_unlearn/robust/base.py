"""Robust parts: when they may act in a training run, and the contexts that they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from ..data.encoding import EncodedRow
from ..data.pairing import PaddedRows, PairedRows
from ..losses.base import LabelScores, Loss
from .trained_weights import TrainedWeights

TermName = Literal["forget", "retain"]
TERMS: tuple[TermName, ...] = ("forget", "retain")

Gradients = dict[str, Tensor]
"""Gradients by the parameter's name in the model; parameters without one are left out."""


@dataclass(frozen=True)
class TrainingContext:
    """The run a part is about to take part in.

    Attributes:
        model: The model at its original weights, on its device, not yet wrapped for several processes.
        forget_loss: The forget loss of the run's settings.
        forget_loss_summands: Iterates once over the whole forget set in micro-batches. Each item is a scalar with a
            graph; together they add up to the forget loss at the model's current weights (the mean of the whole set).
        retain_loss_summands: The same for the retain loss over the whole retain set. Not before the first step: a loss
            that compares with the target has no reference while parts are prepared.
        forget_rows: Encoded forget rows.
        retain_rows: Encoded retain rows.
        batch_size: Rows in a micro-batch.
        rows_per_step: Forget rows of an optimizer step, those of all micro-batches on all processes.
        pad_token_id: Fills rows up to the longest.
        max_steps: Optimizer steps of the whole run.
        output_dir: Where the run keeps its checkpoints; a part may leave files there.
        resuming: Whether the run continues from a checkpoint.
        writes: Whether this process is the one that writes files.
        batches: Iterates once over rows in micro-batches, in order, on the model's device.
        score: The model's scores at a micro-batch's labels, at its current weights: with a graph if gradients
            are enabled, without dropout and without a reference. Where weights are sharded, all processes have to call
            it equally often.
        retain_kl: Mean KL divergence from the target (as it was before the first step) over the labels of the retain
            set, in nats per token, at the current weights. Only if a part sets :attr:`TrainingPart.uses_kl`.
        floating_point_ops: Of one forward and backward pass of a micro-batch, as transformers counts them.
        trained_weights: Gives the trained weights as this process holds them, once training has begun.
    """

    model: nn.Module
    forget_loss: Loss
    forget_loss_summands: Callable[[], Iterator[Tensor]]
    retain_loss_summands: Callable[[], Iterator[Tensor]]
    forget_rows: Sequence[EncodedRow]
    retain_rows: Sequence[EncodedRow]
    batch_size: int
    rows_per_step: int
    pad_token_id: int
    max_steps: int
    output_dir: Path
    resuming: bool
    writes: bool
    batches: Callable[[Sequence[EncodedRow]], Iterator[PaddedRows]]
    score: Callable[[PaddedRows], LabelScores]
    retain_kl: Callable[[], float]
    floating_point_ops: Callable[[PaddedRows], int]
    trained_weights: Callable[[], TrainedWeights]


@dataclass(frozen=True)
class StepValue:
    """The objective of a step at some weights.

    Attributes:
        total: The weighted sum of its terms.
        means: The mean of each term's loss, unweighted.
    """

    total: float
    means: Mapping[TermName, float]


class Measure(Protocol):
    """See :attr:`StepContext.measure`."""

    def __call__(self, terms: Sequence[TermName] | None = None, measured: bool = False) -> StepValue:
        """The objective now."""


@dataclass(frozen=True)
class StepContext:
    """The optimizer step that is about to be made.

    Attributes:
        step: Optimizer steps taken so far.
        model: The model, not wrapped; its weights may be changed in place.
        optimizer: The optimizer, not wrapped; its state may be changed.
        term_gradients: Gradients of one term of the objective, its weight included, over all micro-batches of this
            step on all processes, at the model's current weights. Costs a forward and a backward pass; leaves no
            gradients behind.
        measure: The objective of this step at the model's current weights, by one forward pass of the given terms (by
            default of all that are active), over all micro-batches on all processes. Counts in the means that are
            logged if ``measured``. To be called by every process or by none.
        set_reference: From now on the retain loss compares with the model as it is at this moment. Costs a forward
            pass over the retain set.
    """

    step: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    term_gradients: Callable[[TermName], Gradients]
    measure: Measure
    set_reference: Callable[[], None]


@dataclass(frozen=True)
class StepResult:
    """The optimizer step that was just made.

    Attributes:
        step: Optimizer steps taken so far, this one included.
        model: The model, not wrapped; its weights may be changed in place.
        means: Means over this step on all processes: ``loss/forget``, ``loss/retain`` (unweighted), ``kl/retain`` and
            so on, as they are logged. To be called by every process or by none.
    """

    step: int
    model: nn.Module
    means: Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class TermWeights:
    """Factors on the loss terms of one step."""

    forget: float = 1.0
    retain: float = 1.0


@dataclass(frozen=True)
class OneRound:
    """A short run that shows what a learning rate does.

    Attributes:
        part: What takes the place of the part that was asked: a name with parameters, as in ``robust``.
        steps: Optimizer steps of the run.
    """

    part: dict[str, Any]
    steps: int


@dataclass(frozen=True)
class View:
    """A changed view of the model for the forward and backward pass of one term.

    Attributes:
        name: Names the view; a view of the retain term is compared with the target under the view of the same name
            (:meth:`TrainingPart.reference_views`), or with the target as it is if there is none.
        enter: Changes the model's weights in place, and puts them back bit for bit at its end. The gradient is
            taken at the changed weights and applied to the trained weights (a straight-through estimate).
        weight: Of this view among all views of the term, before normalization to a sum of 1.
    """

    name: str
    enter: Callable[[], AbstractContextManager[object]]
    weight: float = 1.0


class TrainingPart:
    """Does nothing; a part overrides the methods it needs.

    Attributes:
        needs_retain: Whether it requires a retain loss.
        makes_views: Whether :meth:`views` is overridden. Each view is a forward and a backward pass of its own, and
            the two terms are then no longer computed in one pass.
        changes_gradients: Whether :meth:`change_gradients` is overridden. The gradients of both terms are then kept.
        needs_whole_weights: Whether it uses or changes whole tensors, so it cannot be used if weights are
            sharded over several processes (FSDP, ZeRO-3).
        uses_trained_weights: Whether it changes weights, or makes steps of its own, by
            :attr:`TrainingContext.trained_weights`, which works with sharded weights too.
        uses_retain_rows: Whether it uses the retain rows, so that they are read even without a retain loss.
        uses_kl: Whether it uses :attr:`TrainingContext.retain_kl`, for which reference values of the target are kept.
        makes_rounds: Whether :meth:`one_round` is overridden.
        acts_at_end: Whether :meth:`finish` makes sense without any training before it (``max_steps: 0``).
        rules: Raised whenever the same settings lead to other weights, so that runs of before are not continued.
    """

    needs_retain: ClassVar[bool] = False
    makes_views: ClassVar[bool] = False
    changes_gradients: ClassVar[bool] = False
    needs_whole_weights: ClassVar[bool] = True
    uses_trained_weights: ClassVar[bool] = False
    uses_retain_rows: ClassVar[bool] = False
    uses_kl: ClassVar[bool] = False
    makes_rounds: ClassVar[bool] = False
    acts_at_end: ClassVar[bool] = False
    rules: ClassVar[int] = 1

    @property
    def passes(self) -> int:
        """Forward and backward passes of the forget term in a step, for a plan of what a run takes."""
        return 1

    def check(self, config: Any) -> None:
        """Called when a recipe is checked, before any model is loaded: refuses settings that do not go together.

        Args:
            config: The :class:`~hf_unlearn.trainer.config.UnlearnConfig` that the part belongs to.

        Raises:
            RequestError: In one sentence that says which setting to change.
        """

    def one_round(self) -> OneRound:
        """Called after :meth:`prepare`: a part that makes one round of this one's, to try a learning rate with."""
        raise NotImplementedError(f"{type(self).__name__} makes no rounds")

    def arrange(self, rows: PairedRows, epochs: float) -> PairedRows:
        """Called once when the trainer is made: the rows as this part wants them ordered.

        Args:
            rows: The rows as they would be without it.
            epochs: How often the run goes through the forget set.
        """
        return rows

    def prepare(self, context: TrainingContext) -> None:
        """Called once, at the original weights, before the optimizer exists and before a checkpoint is loaded.

        A part may freeze parameters here. It must neither change weights nor leave gradients behind.
        """

    def relabel(self, rows: Sequence[EncodedRow]) -> Sequence[EncodedRow]:
        """Called once after :meth:`prepare`: the forget rows with the labels that they are trained on."""
        return rows

    def reference_views(self, model: nn.Module) -> Sequence[View]:
        """Views under which the target is scored too, at its original weights; their names are those of views of the
        retain term.

        Args:
            model: The target: the model that is trained, or the reference model that was given besides.
        """
        return ()

    def further_forget_losses(self) -> Sequence[Loss]:
        """Forget losses that :meth:`forget_loss` may give, so that their references are made from the target."""
        return ()

    def forget_loss(self, loss: Loss, step: int, steps: int) -> Loss:
        """The forget loss of one step.

        Args:
            loss: What it would be without this part.
            step: Optimizer steps taken so far.
            steps: Optimizer steps of the whole run.
        """
        return loss

    def term_weights(self, step: int) -> TermWeights:
        """Factors on the two loss terms in a step, besides the configured weights. A term with factor 0 costs nothing.
        If both are 0, the optimizer has no gradients and leaves the weights as they are.

        Args:
            step: Optimizer steps taken so far.
        """
        return TermWeights()

    def before_step(self, context: StepContext) -> None:
        """Called before every optimizer step's first forward pass."""

    def forget_rows(self, step: int, count: int) -> Sequence[int] | None:
        """Called after :meth:`before_step`: the forget rows that the step is on.

        Args:
            step: Optimizer steps taken so far.
            count: Rows of the step, those of all micro-batches on all processes.

        Returns:
            So many positions in :attr:`TrainingContext.forget_rows`; ``None`` for the rows whose turn it is.
        """
        return None

    def views(self, term: TermName) -> Sequence[View]:
        """Views of a term in the step that :meth:`before_step` was last called for; none for the weights as they are.

        Views of several parts are combined: the term's gradient is the weighted mean over all of them.
        """
        return ()

    def change_gradients(self, gradients: dict[TermName, Gradients]) -> dict[TermName, Gradients]:
        """Called once a step with the finished gradients of each active term; what is returned is added up."""
        return gradients

    def after_step(self, result: StepResult) -> None:
        """Called after every optimizer step."""

    def ended(self, step: int) -> bool:
        """Whether the run may end here, before its full length. One part is enough to end it.

        Args:
            step: Optimizer steps taken so far.
        """
        return False

    def finish(self, context: TrainingContext) -> None:
        """Called once after the last step, before the model is saved: the weights may be changed in place.

        Gradients may be left behind. What is done here is not logged as steps.
        """

    def outcome(self) -> Mapping[str, Any]:
        """Called once after :meth:`finish`: what is reported about the part, as plain data (no texts)."""
        return {}

    def save_state(self, folder: Path) -> None:
        """Called by the process that writes when a checkpoint is made: leaves what :meth:`load_state` needs."""

    def save_shard(self, folder: Path) -> None:
        """Called by every process when a checkpoint is made: leaves what only this process has."""

    def load_state(self, folder: Path) -> None:
        """Called by every process after a checkpoint's weights were loaded, before the first step."""
