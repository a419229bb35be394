"""The two terms of the objective for one micro-batch: which rows they need, one forward pass, what the losses see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from ..data.pairing import PaddedRows
from ..losses.base import LabelScores, Loss, LossSum
from ..robust.base import TermName
from .alternates import label_only_scores
from .forward import LabelForward, Wanted, forward_labels, join
from .reference import Reference

TERM_OF: dict[str, TermName] = {"forget": "forget", "alternate": "forget", "retain": "retain"}
"""Which term the parts of a batch belong to."""


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


@dataclass(frozen=True)
class TermMaker:
    """Makes terms of micro-batches.

    Attributes:
        losses: The loss of each term.
        references: What the target says, by part of a batch, and by ``retain@VIEW`` for the retain rows under a view.
        pad_token_id: Fills rows up to the longest.
        unwrap: Takes a model out of what wraps it for several processes.
    """

    losses: Mapping[TermName, Loss]
    references: Mapping[str, Reference]
    pad_token_id: int
    unwrap: Callable[[nn.Module], nn.Module]

    def make(
        self, model: nn.Module, inputs: Mapping[str, PaddedRows], names: Sequence[TermName], view: str | None = None
    ) -> list[Term]:
        """Terms of one micro-batch, in one forward pass.

        Args:
            model: The model, possibly wrapped.
            inputs: The micro-batch.
            names: Which terms.
            view: The view the model is seen under, whose reference the retain term is compared with.
        """
        rows = [part for name in names for part in _parts_of(name, self.losses[name])]
        wanted = Wanted(logits=False)
        for name in names:
            layer = self.losses[name].hidden_layer
            wanted |= Wanted(self.losses[name].uses_logits, () if layer is None else (layer,))
        forwards = self.forward(model, {name: inputs[name] for name in rows}, wanted)
        return [self._term(name, inputs, forwards, view) for name in names]

    def forward(self, model: nn.Module, inputs: Mapping[str, PaddedRows], wanted: Wanted) -> dict[str, LabelForward]:
        """One forward pass over all parts of a batch."""
        inner = self.unwrap(model)
        if len(inputs) == 1:
            ((name, rows),) = inputs.items()
            return {name: forward_labels(model, inner, rows, wanted)}
        both = forward_labels(model, inner, join(list(inputs.values()), self.pad_token_id), wanted)
        return dict(zip(inputs, both.split([len(rows["labels"]) for rows in inputs.values()]), strict=True))

    def _term(
        self,
        name: TermName,
        inputs: Mapping[str, PaddedRows],
        forwards: Mapping[str, LabelForward],
        view: str | None,
    ) -> Term:
        loss = self.losses[name]
        if name == "retain":
            reference = self.references.get(f"retain@{view}", self.references.get("retain", Reference()))
            return Term(name, loss, _scores(loss, reference, inputs["retain"], forwards["retain"]), forwards["retain"])
        alternates = None
        if loss.uses_alternates:
            alternates = self._forget_scores("alternate", inputs, forwards)
        if loss.uses_alternate_labels:
            alternates = label_only_scores(inputs["alternate"])
        if loss.uses_labels:
            return Term(name, loss, self._forget_scores("forget", inputs, forwards, alternates), forwards["forget"])
        assert alternates is not None  # a loss looks at answers or at alternates
        return Term(name, loss, alternates, forwards["alternate"])

    def _forget_scores(
        self,
        part: str,
        inputs: Mapping[str, PaddedRows],
        forwards: Mapping[str, LabelForward],
        alternates: LabelScores | None = None,
    ) -> LabelScores:
        reference = self.references.get(part, Reference())
        return _scores(self.losses["forget"], reference, inputs[part], forwards[part], alternates)


def _parts_of(term: TermName, loss: Loss) -> list[str]:
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
