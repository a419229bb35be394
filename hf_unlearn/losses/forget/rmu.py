"""Misdirection of hidden states: on forget text one layer's output becomes a fixed random direction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import RequestError
from .. import FORGET_LOSSES
from ..base import LabelScores, Loss, LossSum, count_rows, given


@FORGET_LOSSES.register(
    "rmu",
    summary="Representation misdirection: hidden states of one layer are steered to a fixed random vector.",
    paper="arXiv 2403.03218",
    defaults={"layer": 7, "coefficient": 6.5, "vector_seed": 0, "trained": 3},
    needs=("hidden states",),
)
@dataclass(frozen=True)
class RMULoss(Loss):
    r"""Squared distance of hidden states on forget text to a control vector.

    .. math:: L = \frac{1}{B} \sum_i \frac{1}{|y_i|} \sum_t \left\lVert h^{(\ell)}_{i,t} - c\,u \right\rVert_2^2

    with ``B`` the rows of the global batch, :math:`h^{(\ell)}` what decoder layer :math:`\ell` gives at the positions
    that predict the row's labels, and ``u`` one vector for the whole run: entries uniform in [0, 1), then length 1.
    Goes with the retain loss ``hidden`` at the same layer, as in the paper; others work too.

    Cost: a forward and a backward pass that end at layer :math:`\ell`, no output head; no second model. With
    ``hidden`` as the retain loss everything above stays out of both passes. By default only the MLP's output
    projections of layers :math:`\ell-2` to :math:`\ell` are trained, so that nothing below them is differentiated
    either; a method's ``trained_parameters`` names others.

    The formula sums over the width, the authors' code takes the mean over it. Both terms are then smaller by the same
    factor, so that published retain weights (1200 for Zephyr-7B) and coefficients carry over; only gradient clipping
    and terms other than ``hidden`` see the difference. On plain text the states of all tokens
    but the last have part (the last one predicts no label), on prompt and answer only those that predict the answer
    (``completion_only_loss: false`` adds the prompt). In public code the mean over tokens also broadcasts to
    ``[batch, batch]``, so that rows of different lengths share their weights; here it does not.

    Args:
        layer: Index of the layer from 0; 7 for Zephyr-7B and Llama-3-8B in public settings.
        coefficient: Length of the control vector, greater than zero: 6.5 for Zephyr-7B, 300 for Yi-34B. It has to be
            well above the length that hidden states have there.
        vector_seed: Of the control vector. Two topics in two methods need two seeds.
        trained: How many layers, the last of them ``layer``, have their MLP's output projection trained by default; 0
            trains everything up to ``layer``.

    Raises:
        RequestError: If a value is out of range.

    Source: Li et al., *The WMDP Benchmark: Measuring and Reducing Malicious Use with Unlearning* (arXiv 2403.03218).
    """

    layer: int = 7
    coefficient: float = 6.5
    vector_seed: int = 0
    trained: int = 3

    uses_logits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for key in ("layer", "vector_seed", "trained"):
            if getattr(self, key) < 0:
                raise RequestError(f"rmu: {key} is {getattr(self, key)}; it must be 0 or more")
        if not self.coefficient > 0:
            raise RequestError(f"rmu: coefficient is {self.coefficient}; it must be above 0")

    @property
    def hidden_layer(self) -> int | None:
        """The layer that is steered."""
        return self.layer

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """The layer that is steered and those right below it."""
        return tuple(range(max(0, self.layer - self.trained + 1), self.layer + 1)) if self.trained else ()

    def count(self, labels: Tensor) -> Tensor:
        """Rows of ``[batch, time]`` that have labels."""
        return count_rows(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """Sum over the rows that have labels; needs ``hidden`` of shape ``[N, width]``."""
        hidden = given(scores.hidden, "hidden states")
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        aim = self.coefficient * control_vector(hidden.shape[-1], self.vector_seed).to(wide)
        return scores.mean_over_rows((wide - aim).square().sum(dim=-1))


@lru_cache(maxsize=8)
def control_vector(width: int, seed: int) -> Tensor:
    """``[width]``, of length 1 in float64: uniform in [0, 1) before, and the same on every machine."""
    vector = torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vector / vector.norm()
