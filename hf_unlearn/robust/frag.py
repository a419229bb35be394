"""FRAG: whether training changed the weights that the forget rows need or those that the retain rows need."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import RequestError
from ..models.activation_norms import input_norms
from ..models.decoder import linear_layers
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .frp import importances
from .weights import Weights, refuse_adapters


@ROBUST.register(
    "frag",
    summary="Changes nothing: measures whether the change lies on weights that matter for forget or for retain rows.",
    paper="arXiv 2608.25429, eq. 3-5",
    needs=("retain",),
)
@dataclass
class FRAG(TrainingPart):
    r"""The forget-retain alignment gap, an early hint at what relearning will bring back.

    .. math:: \operatorname{FRAG} = \cos(F, \Delta W^2) - \cos(R, \Delta W^2)

    with the importances ``F`` and ``R`` of :class:`~hf_unlearn.robust.frp.FRP` at the original weights, and
    :math:`\Delta W` what was changed, over the weights of all linear layers but the output head. Name it last, so that
    it sees what the other parts did. The numbers are in the method's ``training.json`` under ``parts``; they are small
    (published: 0.00002 for NPO, 0.03 for FRP), so that only models of one target compare.

    Read it with care. The paper gives a rank correlation of -0.78 with what relearning brings back; its authors'
    repository says that this figure is that of the first cosine alone and that the gap as defined gives -0.60, against
    -0.36 for the length of the change, and -0.31 against -0.10 without their own method. Here it has not been tested,
    and no verdict uses it.

    Cost: before the first step a forward pass over both sets; a copy of the trained weights in the CPU's memory.

    Raises:
        RequestError: Adapters are trained, or the model has no linear layer.

    Source: Chen et al., *Distance Is Not Enough: Forget-Retain Alignment Gap Predicts LLM Relearning Robustness*
    (arXiv 2608.25429, eq. 3-5), after its released code and notes.
    """

    _norms: tuple[dict[str, Tensor], dict[str, Tensor]] | None = field(default=None, init=False, repr=False)
    _original: Weights | None = field(default=None, init=False, repr=False)
    _found: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    uses_retain_rows: ClassVar[bool] = True

    def prepare(self, context: TrainingContext) -> None:
        """Measures at the original weights."""
        refuse_adapters(context.model, "frag")
        layers = linear_layers(context.model)
        if not layers:
            raise RequestError("frag: the model has no linear layer besides its output head")
        forget, retain = (
            input_norms(layers, context.batches(rows), context.score)
            for rows in (context.forget_rows, context.retain_rows)
        )
        self._norms = (forget, retain)
        self._original = Weights(context.model)

    @torch.no_grad()
    def finish(self, context: TrainingContext) -> None:
        """Compares what has changed."""
        assert self._norms is not None and self._original is not None  # prepare was called
        forget, retain = self._norms
        before = self._original.tensors
        self._found = alignments(
            (before[f"{name}.weight"], layer.weight.detach().cpu(), forget[name].cpu(), retain[name].cpu())
            for name, layer in linear_layers(context.model).items()
            if f"{name}.weight" in before
        )

    def outcome(self) -> dict[str, Any]:
        """Both cosines, their difference, and the length of the change; nothing if nothing has changed."""
        return self._found


def alignments(layers: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]) -> dict[str, float]:
    """Cosines of what was changed with what matters.

    Args:
        layers: For each linear layer its weight before and after, ``[out, in]``, and the lengths of its inputs over
            forget and over retain rows, ``[in]``.

    Returns:
        ``forget`` and ``retain``, the cosines; ``gap``; and ``length``, the Euclidean norm of the change. Empty if
        nothing has changed.
    """
    dots, squares, change, fourth = [0.0, 0.0], [0.0, 0.0], 0.0, 0.0
    for before, after, forget, retain in layers:
        moved = (after.double() - before.double()).square()
        change, fourth = change + float(moved.sum()), fourth + float(moved.square().sum())
        for place, important in enumerate(importances(before, forget, retain)):
            dots[place] += float((important.double() * moved).sum())
            squares[place] += float(important.double().square().sum())
    if not fourth:
        return {}
    along = [dot / math.sqrt(square * fourth) if square else 0.0 for dot, square in zip(dots, squares, strict=True)]
    return {"forget": along[0], "retain": along[1], "gap": along[0] - along[1], "length": math.sqrt(change)}
