"""Magnitude pruning: an edit that has no bins and no data, and yet can bring back what was hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.example import DataBundle
from . import ATTACKS
from .base import Attacked
from .edits import WeightEdit, check_sizes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@ATTACKS.register(
    "prune",
    summary="set the smallest weights of every linear layer to zero, at several shares",
    paper="arXiv 2407.06483 (compression after unlearning)",
    defaults={"shares": [0.1, 0.2, 0.3]},
    needs=("never-knew control",),
    tier="quick",
)
@dataclass(frozen=True)
class Prune(WeightEdit):
    """Settings of pruning. Nothing is trained.

    Attributes:
        shares: Shares of the weights of each matrix that are set to zero; the attacker keeps the best.
    """

    shares: tuple[float, ...] = (0.1, 0.2, 0.3)

    turned: ClassVar[str] = "share"

    def __post_init__(self) -> None:
        check_sizes("prune.shares", self.shares, 0, 1, what="shares between 0 and 1")

    @property
    def sizes(self) -> Sequence[float]:
        """The shares."""
        return self.shares

    def edit(self, model: PreTrainedModel, job: str, attacked: Attacked) -> None:
        """Prune every linear layer but the output head."""
        from ..quantization.base import body_layers

        for layer in body_layers(model, "pruning").values():
            prune_smallest(layer.weight, self.size_of(job))

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """The shares."""
        return {"shares": list(self.shares), "layers": "all linear layers but the output head"}


def prune_smallest(weight: Tensor, share: float) -> None:
    """Set the ``floor(share * n)`` entries of least magnitude to zero, in place; of equals the first ones."""
    count = int(share * weight.numel())
    smallest = weight.abs().flatten().argsort(stable=True)[:count]
    weight.view(-1)[smallest] = 0
