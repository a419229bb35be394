"""Interpolation with the target: how far the way back is.

Whoever has the target needs no attack, so a gate does not judge this unless it lists it. It says how deep the
forgetting is: a model that answers again with a tenth of the way back has hardly moved. A never-knew model is mixed
with the target too. It has to be a fine-tune of the same base for that to say anything: between models that were
trained apart lies no line of models that work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.example import DataBundle
from ..errors import RequestError
from . import ATTACKS
from .base import Attacked
from .edits import WeightEdit, check_same_shapes, check_sizes, mix

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@ATTACKS.register(
    "interpolate",
    summary="move the weights part of the way back to the target, or further away from it",
    paper="arXiv 2505.22310 (linear connectivity); extrapolation arXiv 2602.06441",
    defaults={"shares": [0.1, 0.25, 0.5]},
    needs=("never-knew control", "target model"),
    tier="deep",
)
@dataclass(frozen=True)
class Interpolate(WeightEdit):
    """Settings of interpolation. Nothing is trained.

    Attributes:
        shares: Shares of the target's weights in the mixture; below 0 leads away from the target. The attacker keeps
            the best.
    """

    shares: tuple[float, ...] = (0.1, 0.25, 0.5)

    judged: ClassVar[bool] = False
    no_floor: ClassVar[str] = "the target that is mixed in brings its knowledge, which holdout facts say nothing of"
    turned: ClassVar[str] = "share"

    def __post_init__(self) -> None:
        check_sizes("interpolate.shares", self.shares, -1, 1, what="shares between -1 and 1")
        if 0 in self.shares:
            raise RequestError("interpolate.shares names 0, which changes nothing: remove it")

    @property
    def sizes(self) -> Sequence[float]:
        """The shares."""
        return self.shares

    def check(self, attacked: Attacked) -> None:
        """The target must have the same weights."""
        check_same_shapes("interpolate", attacked.folder, attacked.target, "the target")

    def edit(self, model: PreTrainedModel, job: str, attacked: Attacked) -> None:
        """Mix every weight with the target's."""
        from ..models.loading import load_model

        target = load_model(attacked.target, device="cpu")
        mix(dict(model.named_parameters()), dict(target.named_parameters()), self.size_of(job))

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """The shares, and that the target is available."""
        return {"given": "the target's weights", "shares": list(self.shares), "trained": "nothing"}
