"""SURE row by row: what its authors released, with the mask applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RequestError
from . import ROBUST
from .base import Gradients, StepContext, StepResult, TermName, TrainingPart
from .weights import load_tensors, save_tensors, trained_parameters

ROWS_FILE = "sure_rows.safetensors"


def row_scores(gradients: Gradients) -> dict[str, Tensor]:
    """Norm of each row of every matrix (over all but the first dimension), magnitude of each element of every vector.

    Args:
        gradients: By parameter name.

    Returns:
        ``[rows]`` in float32 by the same names.
    """
    return {
        name: gradient.float().abs() if gradient.ndim < 2 else gradient.float().flatten(1).norm(dim=1)
        for name, gradient in gradients.items()
    }


def select_rows(scores: Mapping[str, Tensor], percentile: float) -> dict[str, Tensor]:
    """Rows at or above one percentile of the scores of the whole model, as ``[rows]`` booleans by name.

    A row whose score is zero is never selected: in a large vocabulary most rows have no gradient, and a percentile
    among them would be zero and select everything.

    Raises:
        RequestError: A score is not finite.
    """
    joined = torch.cat([rows.reshape(-1) for rows in scores.values()])
    threshold = float(np.percentile(joined.cpu().numpy(), percentile))
    if not np.isfinite(threshold):
        raise RequestError("sure-rows: the forget loss has a gradient that is not finite: lower learning_rate")
    threshold = min(threshold, float(joined.max()))
    return {name: (rows >= threshold) & (rows > 0) for name, rows in scores.items()}


@ROBUST.register(
    "sure-rows",
    summary="In each step only the rows with the largest forget gradients are trained.",
    paper="arXiv 2410.16454, released code (see docs/sure.md)",
    defaults={"percentile": 90.0},
)
@dataclass
class SureRows(TrainingPart):
    r"""Row-level saliency mask, chosen again in every step at the current weights.

    .. math::
        s_r = \lVert \nabla_{\theta_r} L_{forget} \rVert_2, \qquad
        \theta_r \leftarrow \theta_r + [s_r \ge \gamma] \, \Delta\theta_r

    A row is one output of a matrix (one token of an embedding), or one element of a vector. The threshold is a
    percentile of all rows' scores. The mask multiplies the gradients of both terms before they are clipped, and rows
    outside it are put back after the step, so neither momentum nor weight decay moves them: they keep their
    weights bit for bit. Their momentum keeps fading, as Adam's does without a gradient.

    The released code computes this mask and never applies it, takes it from the last micro-batch instead of the step,
    adds the forget gradient twice, and keeps one Python number per row. In a step without a forget term (``cycles``)
    the last mask holds.

    Cost: no extra pass, but the two terms are computed separately; the gradients of both and one copy of the trained
    weights in memory.

    Args:
        percentile: From 0 (every row with a gradient) to 100. The released runs use 90 with NPO and 99 with gradient
            ascent.

    Raises:
        RequestError: If the percentile is outside 0 to 100.

    Source: the code released with arXiv 2410.16454, as it was meant. The paper itself masks modules: ``sure``.
    """

    changes_gradients: ClassVar[bool] = True

    percentile: float = 90.0
    _mask: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _before: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _weights: dict[str, nn.Parameter] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise RequestError(f"sure-rows: percentile is {self.percentile}, it must lie between 0 and 100")

    def before_step(self, context: StepContext) -> None:
        """Records which weights will be changed."""
        self._weights = trained_parameters(context.model)

    @torch.no_grad()
    def change_gradients(self, gradients: dict[TermName, Gradients]) -> dict[TermName, Gradients]:
        """Chooses the rows and removes everything else from the gradients of both terms."""
        if gradients.get("forget"):
            self._mask = select_rows(row_scores(gradients["forget"]), self.percentile)
        if not self._mask:
            raise RequestError(
                "sure-rows: there was no forget gradient yet to choose rows by: begin with forget steps"
            )
        self._before = {name: weight.detach().clone() for name, weight in self._weights.items()}
        return {
            term: {name: gradient * self._column(name, gradient) for name, gradient in kept.items()}
            for term, kept in gradients.items()
        }

    @torch.no_grad()
    def after_step(self, result: StepResult) -> None:
        """Rows outside the mask get their old values back."""
        for name, weight in self._weights.items():
            weight.copy_(torch.where(self._column(name, weight), weight, self._before[name]))
        self._before = {}

    def _column(self, name: str, like: Tensor) -> Tensor:
        """The mask of a weight, of a shape that fits its rows; a weight without a forget gradient is outside it."""
        mask = self._mask.get(name)
        if mask is None:
            return torch.zeros((), dtype=torch.bool, device=like.device)
        return mask.to(like.device).view(-1, *[1] * (like.ndim - 1)) if like.ndim else mask.to(like.device)

    def save_state(self, folder: Path) -> None:
        """The mask of the last step with a forget term."""
        save_tensors(folder / ROWS_FILE, self._mask)

    def load_state(self, folder: Path) -> None:
        """The mask that the next step starts from."""
        self._mask = load_tensors(folder / ROWS_FILE, "sure-rows")
