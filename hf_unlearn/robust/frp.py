"""FRP: weights that matter for the forget rows and not for the retain rows are pruned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import RequestError
from ..models.activation_norms import input_norms
from ..models.decoder import linear_layers
from ..registry import suggest
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .weights import refuse_adapters

FORMS = ("released", "equation")


@ROBUST.register(
    "frp",
    summary="Prunes, row by row, weights that are important for forget rows, not for retain rows, and large.",
    paper="arXiv 2608.25429, eq. 3-6",
    defaults={"share": 0.03, "magnitude": 0.05, "retain": 0.0, "form": "released", "modules": "mlp"},
    needs=("retain",),
)
@dataclass
class FRP(TrainingPart):
    r"""Sets to zero the share of every output's weights with the greatest score.

    With the importance of weight ``W[i, j]`` for the forget and for the retain rows, from the lengths ``f`` and ``r``
    of its input over the tokens of a row (means over rows),

    .. math:: F_{ij} = |W_{ij}| \, \frac{f_j}{r_j + \epsilon}, \qquad R_{ij} = |W_{ij}| \, \frac{r_j}{f_j + \epsilon},
              \qquad \epsilon = 10^{-6}

    the score is, with ranks within each row of the matrix (an output's weights),

    - ``form: equation``: :math:`\operatorname{rank}(F) - \beta \operatorname{rank}(R) + \lambda
      \operatorname{rank}(|W|)`, as the paper writes it;
    - ``form: released``: :math:`\operatorname{rank}(f / r) + \lambda \operatorname{rank}(|W|)`, while the share
      :math:`\beta` of the row with the greatest ``R`` is never pruned. This is the code that the paper's figures come
      from.

    No step is made and no gradient is taken: use it with ``max_steps: 0``, or after training.

    Cost: a forward pass over both sets; one sort per matrix.

    Args:
        share: Of each row, above 0 and below 1. Published: 0.03.
        magnitude: :math:`\lambda`, at least 0. Published: 0.05.
        retain: :math:`\beta`, at least 0; with ``released`` a share of each row, at most ``1 - share``. Published: 0
            and 0.15 (1B), 0 and 0.05 (3B).
        form: ``released`` or ``equation``.
        modules: Only layers with this in their names are pruned. Published: the MLPs.

    Raises:
        RequestError: A value is out of range, no such layer is there, or adapters are trained.

    Source: Chen et al., *Distance Is Not Enough: Forget-Retain Alignment Gap Predicts LLM Relearning Robustness*
    (arXiv 2608.25429, eq. 3-6), after its released code and notes.
    """

    share: float = 0.03
    magnitude: float = 0.05
    retain: float = 0.0
    form: str = "released"
    modules: str = "mlp"
    _pruned: float = field(default=0.0, init=False, repr=False)

    uses_retain_rows: ClassVar[bool] = True
    acts_at_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise RequestError(f"frp: form is {self.form!r}: {suggest(str(self.form), list(FORMS))}")
        for key, fits, wanted in (
            ("share", 0 < self.share < 1, "above 0 and below 1"),
            ("magnitude", self.magnitude >= 0, "at least 0"),
            ("retain", self.retain >= 0, "at least 0"),
        ):
            if not fits:
                raise RequestError(f"frp: {key} is {getattr(self, key)}; it must be {wanted}")
        if self.form == "released" and self.retain > 1 - self.share:
            raise RequestError(f"frp: retain is {self.retain}; it must leave the share {self.share} of a row to prune")

    def prepare(self, context: TrainingContext) -> None:
        """Refuses a model without such layers."""
        refuse_adapters(context.model, "frp")
        self._layers(context.model)

    def _layers(self, model: nn.Module) -> dict[str, nn.Linear]:
        layers = {name: layer for name, layer in linear_layers(model).items() if self.modules in name}
        if not layers:
            raise RequestError(
                f"frp: no linear layer has {self.modules!r} in its name: set modules to a part of the names of the "
                "model's own layers"
            )
        return layers

    @torch.no_grad()
    def finish(self, context: TrainingContext) -> None:
        """Prunes."""
        layers = self._layers(context.model)
        forget, retain = (
            input_norms(layers, context.batches(rows), context.score)
            for rows in (context.forget_rows, context.retain_rows)
        )
        pruned, whole = 0, 0
        for name, layer in layers.items():
            scores = prune_scores(layer.weight, forget[name], retain[name], self.magnitude, self.retain, self.form)
            chosen = scores.topk(int(self.share * scores.shape[1]), dim=1).indices
            layer.weight.scatter_(1, chosen, 0.0)
            pruned, whole = pruned + chosen.numel(), whole + scores.numel()
        self._pruned = pruned / whole
        if not pruned:
            raise RequestError(f"frp: share {self.share} is less than one weight of a row, so nothing was pruned")

    def outcome(self) -> dict[str, Any]:
        """The share of the layers' weights that was pruned."""
        return {"pruned": round(self._pruned, 6)} if self._pruned else {}


EPSILON = 1e-6
"""Keeps ratios of input lengths finite."""


def importances(weight: Tensor, forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's ``F`` and ``R``, ``[out, in]`` in float32.

    Args:
        weight: ``[out, in]``.
        forget: ``[in]``, lengths of the inputs over forget rows.
        retain: ``[in]``, the same over retain rows.
    """
    size = weight.float().abs()
    return size * (forget / (retain + EPSILON)), size * (retain / (forget + EPSILON))


def prune_scores(
    weight: Tensor, forget: Tensor, retain: Tensor, magnitude: float, penalty: float, form: str
) -> Tensor:
    """``[out, in]``, greatest for what is pruned first; see :class:`FRP`."""
    important, kept = importances(weight, forget, retain)
    by_size = magnitude * ranks(weight.float().abs())
    if form == "equation":
        return ranks(important) - penalty * ranks(kept) + by_size
    scores = ranks((forget / (retain + EPSILON)).expand_as(important)) + by_size
    vetoed = kept.topk(int(penalty * kept.shape[1]), dim=1).indices
    return scores.scatter(1, vetoed, -torch.inf)


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0 within each row of ``[out, in]``; of equal values, those further left rank lower."""
    return values.argsort(dim=1, stable=True).argsort(dim=1, stable=True).float()
