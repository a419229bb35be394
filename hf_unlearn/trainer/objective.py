"""The objective of a run: the weighted sum of a forget and a retain loss, and what each micro-batch adds to it.

The means of both losses run over the whole optimizer step, so a micro-batch contributes its sum, divided by what the
losses count in all micro-batches of the step on all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.pairing import PaddedRows, PairedRows, pad_rows
from ..errors import RequestError
from ..losses.base import LabelScores, Loss, LossSum, label_positions
from ..models.sharding import gathered_in_turn, reshard, taken_over
from ..robust.base import TERMS, TermName, TrainingPart
from .config import UnlearnConfig
from .finite import check_finite
from .forward import LabelForward, Wanted, forward_labels, join
from .padding_free import attends_row_by_row, check_same, pack
from .parts import loss_of_step, steps_of_run, term_factors
from .references import Reference, evaluating, in_batches, on_device

if TYPE_CHECKING:
    from accelerate import Accelerator

TERM_OF: dict[str, TermName] = {"forget": "forget", "alternate": "forget", "retain": "retain"}
"""Which term the splits of a batch belong to."""


@dataclass(frozen=True)
class Term:
    """One of the two terms of the objective, for one micro-batch.

    Attributes:
        name: ``forget`` or ``retain``.
        loss: What makes it.
        scores: What the loss is given.
        forward: The forward pass of its rows.
    """

    name: TermName
    loss: Loss
    scores: LabelScores
    forward: LabelForward

    @cached_property
    def sum(self) -> LossSum:
        """Sum and count over this micro-batch."""
        return self.loss(self.scores)


@dataclass
class Objective:
    """What a run minimizes. Unless stated otherwise, everything is about the next step.

    Attributes:
        config: The run's settings; they hold the weight of each term.
        forget_loss: That of the settings; parts may replace it for some steps.
        retain_loss: That of the settings.
        parts: Robust parts of the run.
        rows: Its rows.
        references: The target's values, by split, and by ``retain@VIEW`` for the retain rows under a view.
        pad_token_id: Pads rows to the longest.
        accelerator: Of the run.
        model: Gives the model, not wrapped for several processes.
        wrapped: Gives what the training loop calls: the model, or what DeepSpeed or FSDP made of it.
        steps_taken: Gives the number of optimizer steps taken so far.
        batches: This process's micro-batches of the step.
        counts: ``[2]``, what forget and retain loss count in all micro-batches of the step, on all processes.
    """

    config: UnlearnConfig
    forget_loss: Loss
    retain_loss: Loss
    parts: Sequence[TrainingPart]
    rows: PairedRows
    references: Mapping[str, Reference]
    pad_token_id: int
    accelerator: Accelerator
    model: Callable[[], nn.Module]
    wrapped: Callable[[], nn.Module]
    steps_taken: Callable[[], int]
    batches: Sequence[MutableMapping[str, PaddedRows]] = ()
    counts: Tensor = field(default_factory=lambda: torch.zeros(len(TERMS), dtype=torch.int64))

    def __post_init__(self) -> None:
        self._since_log, self._of_step = RunningMeans(), RunningMeans()
        self._micro_batch_rows = 0

    # ---- The step ----

    def begin_step(self, batches: Sequence[MutableMapping[str, PaddedRows]], device: torch.device) -> Tensor:
        """Takes the micro-batches that this process has in the step; returns :attr:`counts`."""
        self.batches = batches
        self.counts = self.accelerator.reduce(self.count(batches, device), reduction="sum")
        return self.counts

    @property
    def losses(self) -> dict[TermName, Loss]:
        """The loss of each term."""
        steps = steps_of_run(self.config, len(self.rows))
        forget = loss_of_step(self.parts, self.forget_loss, self.steps_taken(), steps)
        return {"forget": forget, "retain": self.retain_loss}

    def active(self, inputs: Mapping[str, Any]) -> list[TermName]:
        """Terms of a micro-batch that count. A term with factor 0 from the parts is left out."""
        factors = term_factors(self.parts, self.steps_taken())
        return [name for name in TERMS if factors[name] and name in inputs]

    def count(self, batches: Sequence[Mapping[str, PaddedRows]], device: torch.device) -> Tensor:
        """What forget and retain loss count in some micro-batches: ``[2]``."""
        counts = torch.zeros(len(TERMS), dtype=torch.int64, device=device)
        forget, retain = self.losses["forget"], self.losses["retain"]
        counted = "forget" if forget.uses_labels else "alternate"
        for batch in batches:
            if counted in batch:
                counts[0] += forget.count(batch[counted]["labels"].to(device))
            if "retain" in batch:
                counts[1] += retain.count(batch["retain"]["labels"].to(device))
        return counts

    def splits_that_count(self, inputs: dict[str, PaddedRows]) -> dict[str, PaddedRows]:
        """The splits of a micro-batch that belong to active terms; all of them if no term is active."""
        terms = self.active(inputs)
        return {split: rows for split, rows in inputs.items() if TERM_OF[split] in terms} or inputs

    # ---- A micro-batch ----

    def contribution(
        self,
        model: nn.Module,
        inputs: Mapping[str, PaddedRows],
        counts: Tensor,
        names: Sequence[TermName] | None = None,
        view: str | None = None,
        measured: bool = True,
    ) -> tuple[Tensor, list[Term]]:
        """What a micro-batch adds to the objective, by one forward pass.

        Args:
            model: The model, possibly wrapped.
            inputs: The micro-batch, or a slice of it.
            counts: ``[2]``, what forget and retain loss count over the whole step.
            names: Which terms; by default those that are active.
            view: The view of the model; the retain term is compared with that view's reference.
            measured: Whether it counts in the means that are logged.

        Returns:
            A scalar with a graph, and the terms that it is made of.

        Raises:
            RequestError: It is not finite.
        """
        terms = self.terms(model, inputs, self.active(inputs) if names is None else names, view)
        total = self._weighted_sum(terms, counts.to(self.config.device), self._rows(inputs))
        self.check_finite(total.detach(), "loss")
        if measured:
            self._measure(terms)
        return total, terms

    @contextmanager
    def in_slices(self, inputs: Mapping[str, PaddedRows]) -> Iterator[None]:
        """While a micro-batch is passed slice by slice: a router loss stands for its slice's rows among all of it."""
        self._micro_batch_rows = self._rows(inputs)
        try:
            yield
        finally:
            self._micro_batch_rows = 0

    def terms(
        self, model: nn.Module, inputs: Mapping[str, PaddedRows], names: Sequence[TermName], view: str | None = None
    ) -> list[Term]:
        """Terms of one micro-batch, in one forward pass.

        Args:
            model: The model, possibly wrapped.
            inputs: The micro-batch.
            names: Which terms.
            view: See :meth:`contribution`.
        """
        losses = self.losses
        splits = [split for name in names for split in _splits_of(name, losses[name])]
        wanted = Wanted(logits=False)
        for name in names:
            layer = losses[name].hidden_layer
            wanted |= Wanted(losses[name].uses_logits, () if layer is None else (layer,))
        forwards = self.forward(model, {split: inputs[split] for split in splits}, wanted)
        made = {"forget": self._forget_term, "retain": self._retain_term}
        return [made[name](losses[name], inputs, forwards, view) for name in names]

    def forward(self, model: nn.Module, inputs: Mapping[str, PaddedRows], wanted: Wanted) -> dict[str, LabelForward]:
        """One forward pass over some splits of a batch."""
        inner = self.accelerator.unwrap_model(model)
        if attends_row_by_row(inner):
            packed = forward_labels(model, inner, pack(list(inputs.values())), wanted)
            return dict(zip(inputs, packed.split([len(rows["labels"]) for rows in inputs.values()]), strict=True))
        if len(inputs) == 1:
            ((split, rows),) = inputs.items()
            return {split: forward_labels(model, inner, rows, wanted)}
        both = forward_labels(model, inner, join(list(inputs.values()), self.pad_token_id), wanted)
        return dict(zip(inputs, both.split([len(rows["labels"]) for rows in inputs.values()]), strict=True))

    def _retain_term(
        self, loss: Loss, inputs: Mapping[str, PaddedRows], forwards: Mapping[str, LabelForward], view: str | None
    ) -> Term:
        reference = self.references.get(f"retain@{view}", self.references.get("retain", Reference()))
        return Term("retain", loss, _scores(loss, reference, inputs["retain"], forwards["retain"]), forwards["retain"])

    def _forget_term(
        self, loss: Loss, inputs: Mapping[str, PaddedRows], forwards: Mapping[str, LabelForward], view: str | None
    ) -> Term:
        def scores(split: str, alternates: LabelScores | None = None) -> LabelScores:
            return _scores(loss, self.references.get(split, Reference()), inputs[split], forwards[split], alternates)

        alternates = scores("alternate") if loss.uses_alternates else None
        if loss.uses_alternate_labels:
            alternates = _labels_alone(inputs["alternate"])
        if loss.uses_labels:
            return Term("forget", loss, scores("forget", alternates), forwards["forget"])
        assert alternates is not None  # a loss uses answers or alternates
        return Term("forget", loss, alternates, forwards["alternate"])

    def _weighted_sum(self, terms: Sequence[Term], counts: Tensor, rows: int) -> Tensor:
        count_of = dict(zip(TERMS, counts.clamp(min=1), strict=True))
        factors = term_factors(self.parts, self.steps_taken())
        weights = {"forget": self.config.forget_weight, "retain": self.config.retain_weight}
        summed = [factors[term.name] * weights[term.name] * term.sum.total / count_of[term.name] for term in terms]
        router = router_loss(
            [(term.forward.router, term.forward.n_rows) for term in terms],
            self._micro_batch_rows or rows,
            router_coefficient(self.model()),
            max(1, len(self.batches)) * self.accelerator.num_processes,
        )
        return torch.stack(summed if router is None else [*summed, router]).sum()

    def _rows(self, inputs: Mapping[str, PaddedRows]) -> int:
        """Rows of the terms that count."""
        return sum(len(inputs[name]["labels"]) for name in self.active(inputs))

    def check_finite(self, value: Tensor, what: str) -> None:
        """See :func:`~hf_unlearn.trainer.finite.check_finite`."""
        check_finite(value, what, self.steps_taken() + 1, self.config, self.rows, self.batches)

    # ---- What is logged ----

    @torch.no_grad()
    def _measure(self, terms: Sequence[Term]) -> None:
        for name, total, count in _logged(terms):
            self._since_log.add(name, total, count)
            self._of_step.add(name, total, count)

    def means_since_log(self) -> dict[str, float]:
        """Means since this was last asked, on all processes. Every process has to call it."""
        means = self._since_log.means(self.accelerator)
        self._since_log.clear()
        return means

    def means_of_step(self) -> dict[str, float]:
        """Means since :meth:`clear_step_means`, on all processes. Every process has to call it."""
        return self._of_step.means(self.accelerator)

    def clear_step_means(self) -> None:
        """Reset the means of the step."""
        self._of_step.clear()

    def clear_means(self) -> None:
        """Reset all means."""
        self._since_log.clear()
        self._of_step.clear()

    # ---- Outside of a step ----

    def score(self, batch: PaddedRows) -> LabelScores:
        """See :attr:`~hf_unlearn.robust.base.TrainingContext.score`."""
        return self.label_forward(batch).scores()

    def label_forward(self, batch: PaddedRows) -> LabelForward:
        """A forward pass at the current weights, without dropout. If they are sharded, all processes make it."""
        model = self.model()
        sharding = taken_over(self.accelerator)
        # DDP would wait for gradients of each of its passes.
        called = self.wrapped() if sharding else model
        whole = gathered_in_turn(model) if called is model else nullcontext()
        with evaluating(model), self.accelerator.autocast(), whole:
            found = forward_labels(called, model, self.placed(batch))
        if sharding and not torch.is_grad_enabled():
            reshard(called)
        return found

    def check_packed(self, batch: PaddedRows) -> None:
        """Hold packed rows against padded ones; the model attends row by row.

        Args:
            batch: A few rows.

        Raises:
            RequestError: The model does not compute them as it does padded rows, or takes none.
        """
        model, placed = self.model(), self.placed(batch)
        name = type(model).__name__
        with torch.no_grad(), evaluating(model), self.accelerator.autocast():
            padded = forward_labels(model, model, placed)
            try:
                packed = forward_labels(model, model, pack([placed]))
            except TypeError as error:
                raise RequestError(f"padding_free: {name} takes no packed rows ({error}): leave it out") from error
        assert packed.logits is not None and padded.logits is not None  # both were wanted
        check_same(name, packed.logits, padded.logits)

    def placed(self, batch: PaddedRows) -> PaddedRows:
        """The batch on the device that computes."""
        # Sharded weights may wait in the CPU's memory.
        device = self.config.device if taken_over(self.accelerator) else None
        return on_device(batch, self.model(), device)

    def over_whole_set(self, term: TermName) -> Iterator[Tensor]:
        """See :attr:`~hf_unlearn.robust.base.TrainingContext.forget_loss_summands`.

        Args:
            term: Whose loss it is.
        """
        batches = list(self._whole_set(term))
        position = TERMS.index(term)
        total = sum(self.count([batch], self.config.device)[position] for batch in batches)
        for batch in batches:
            with evaluating(self.model()), self.accelerator.autocast():
                (made,) = self.terms(self.model(), batch, (term,))
            yield made.sum.total / total

    def _whole_set(self, term: TermName) -> Iterator[dict[str, PaddedRows]]:
        data, size, pad = self.rows, self.config.per_device_train_batch_size, self.pad_token_id
        if term == "retain":
            yield from ({"retain": on_device(batch, self.model())} for batch in in_batches(data.retain, size, pad))
            return
        numbers = [data.alternate_row(index) for index in range(len(data.forget))] if data.alternates else []
        for start, rows in zip(range(0, len(data.forget), size), in_batches(data.forget, size, pad), strict=True):
            batch = {"forget": on_device(rows, self.model())}
            if numbers:
                drawn = numbers[start : start + size]
                others = pad_rows([data.alternates[row] for row in drawn], drawn, pad)
                batch["alternate"] = on_device(others, self.model())
            yield batch


def _splits_of(term: TermName, loss: Loss) -> list[str]:
    """What has to go through the model."""
    if term == "retain":
        return ["retain"]
    return [*(["forget"] if loss.uses_labels else []), *(["alternate"] if loss.uses_alternates else [])]


def _scores(
    loss: Loss,
    reference: Reference,
    batch: PaddedRows,
    forward: LabelForward,
    alternates: LabelScores | None = None,
) -> LabelScores:
    return forward.scores(
        reference_logps=reference.row_logps(batch) if loss.uses_reference_logps else None,
        reference_logits=reference.logits(batch) if loss.uses_reference_logits else None,
        layer=loss.hidden_layer,
        reference_hidden=reference.hidden(batch) if loss.uses_reference_hidden else None,
        alternates=alternates,
    )


def _labels_alone(batch: PaddedRows) -> LabelScores:
    """The labels of a batch and their positions, without any forward pass."""
    rows, times = label_positions(batch["labels"]).nonzero(as_tuple=True)
    return LabelScores(None, batch["labels"][rows, times + 1], rows, len(batch["labels"]))


# ---- The router loss of mixture-of-experts models, which keeps experts evenly used ----
#
# As in transformers and TRL it is part of the objective where the configuration has `output_router_logits`, with its
# own coefficient. A model that was trained with it and is unlearned without it may send everything to a few experts.


def router_coefficient(model: nn.Module) -> float:
    """Weight of the router loss in the objective; 0 for models without one."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    if not getattr(config, "output_router_logits", False):
        return 0.0
    return float(getattr(config, "router_aux_loss_coef", 0.0))


def router_loss(
    routers: Sequence[tuple[Tensor | None, int]], rows: int, coefficient: float, micro_batches: int
) -> Tensor | None:
    """What the routers of one micro-batch add to the objective.

    Args:
        routers: The router loss of a pass (a mean over its tokens and layers), and for how many rows it stands.
        rows: Rows of the micro-batch, so that terms that are run separately add up to what they are together.
        coefficient: See :func:`router_coefficient`.
        micro_batches: Of the whole step, on all processes.

    Returns:
        ``coefficient`` times the mean over rows, divided by ``micro_batches``; ``None`` if there is nothing.
    """
    weighted = [router * (own / rows) for router, own in routers if router is not None]
    if not coefficient or not weighted:
        return None
    return coefficient * sum(weighted[1:], weighted[0]) / micro_batches


# ---- Running means ----


class RunningMeans:
    """Sums and counts by name, exact over micro-batches of any size; they stay on their device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Adds a sum of ``count`` terms."""
        pair = torch.stack([total.detach().double(), count.detach().to(total.device).double()])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all processes, by name. Every process has to call this, with the same names."""
        sums = {name: accelerator.reduce(pair, reduction="sum") for name, pair in self._sums.items()}
        return {name: (pair[0] / pair[1]).item() for name, pair in sums.items() if pair[1] > 0}

    def clear(self) -> None:
        """Forgets everything."""
        self._sums.clear()


def _logged(terms: Sequence[Term]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is logged of the terms of a micro-batch: name, sum and count of each mean."""
    for term in terms:
        yield f"loss/{term.name}", term.sum.total, term.sum.count
        if term.scores.logits is not None:
            split = term.name if term.loss.uses_labels else "alternate"
            yield f"logps/{split}", term.scores.row_logps.sum(), term.scores.row_has_labels.sum()
        if term.loss.metric is not None:
            yield f"{term.loss.metric}/{term.name}", term.sum.total, term.sum.count
