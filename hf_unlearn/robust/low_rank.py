"""Keeps only the largest directions of each matrix's change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .weights import Weights, refuse_adapters


@ROBUST.register(
    "low-rank",
    summary="After training, the change of every matrix is cut to its largest singular directions; no training.",
    paper="this project (see docs/procedures.md)",
    defaults={"rank": 16, "keep_norm": True},
)
@dataclass
class LowRank(TrainingPart):
    r"""Concentrates the update.

    .. math:: \theta = \theta_o + c\, U_r S_r V_r^T, \qquad U S V^T = \theta_u - \theta_o

    for every trained matrix, with ``c`` the factor that gives the change its old Frobenius norm back (or 1). Rounding
    errors of a quantized layer add up like noise over its inputs, while an update of low rank acts along few of them:
    at equal norm it is larger relative to them. Vectors keep their whole change. Follow it with ``delta-scaling``,
    which checks what the change still does.

    Cost: a singular value decomposition for each matrix; a copy of the trained weights in the CPU's memory.

    Args:
        rank: Directions that are kept, at least 1.
        keep_norm: Whether what is kept is scaled up to the norm of the whole.

    Raises:
        RequestError: ``rank`` is below 1, or adapters are trained, which are of low rank already.
    """

    rank: int = 16
    keep_norm: bool = True
    _original: Weights | None = field(default=None, init=False, repr=False)
    _kept: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise RequestError(f"low-rank: rank is {self.rank}; it must be at least 1")

    def prepare(self, context: TrainingContext) -> None:
        """Keeps the original weights."""
        refuse_adapters(context.model, "low-rank")
        self._original = Weights(context.model)

    def finish(self, context: TrainingContext) -> None:
        """Cuts the change of every matrix."""
        assert self._original is not None  # prepare was called
        energy = {"whole": 0.0, "kept": 0.0}

        def cut(name: str, delta: Tensor) -> Tensor:
            if delta.ndim < 2:
                return delta
            kept = largest_directions(delta, self.rank)
            norms = torch.linalg.vector_norm(delta.double()), torch.linalg.vector_norm(kept.double())
            energy["whole"] += float(norms[0] ** 2)
            energy["kept"] += float(norms[1] ** 2)
            return kept * (norms[0] / norms[1]).to(kept.dtype) if self.keep_norm and norms[1] > 0 else kept

        self._original.change(context.model, Weights(context.model), cut)
        self._kept = energy["kept"] / energy["whole"] if energy["whole"] else 1.0

    def outcome(self) -> dict[str, Any]:
        """Share of the squared norm of all matrices' changes in the kept directions."""
        return {} if self._kept is None else {"share_kept": round(self._kept, 4)}


def largest_directions(delta: Tensor, rank: int) -> Tensor:
    """The nearest matrix of a rank, for a matrix ``[out, in]`` or each of stacked ones."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    return left[..., :rank] * values[..., None, :rank] @ right[..., :rank, :]
