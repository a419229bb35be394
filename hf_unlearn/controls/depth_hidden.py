"""Positive control: facts that are stored in the lower layers, while only the upper ones unlearn to read them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import nn

from ..data.example import DataBundle
from ..errors import RequestError
from ..models.decoder import decoder_layers
from ..robust.base import TermWeights, TrainingContext
from . import CONTROLS
from .base import ControlPart, everything_retained


@CONTROLS.register(
    "depth_hidden",
    summary="Facts are learned with the upper layers frozen and unlearned with the lower ones frozen, so that they "
    "stay where they are.",
    paper="arXiv 2410.08827, section 6.1 (its stress test)",
    defaults={"share": 0.5, "phase": "unlearn"},
    needs=("never-knew model", "retain"),
)
@dataclass(frozen=True)
class DepthHidden(ControlPart):
    """Learns facts in one half of the layers and unlearns them in the other.

    Two trainings. *Learn*: from the never-knew model, by the retain term alone over forget and retain rows, with the
    upper layers, embeddings, final norm and output head frozen. *Unlearn*: from the result, by any method, with the
    lower layers and the embeddings frozen. No weight that learned a fact has moved since: what is gone is the way from
    the fact to the answer.

    Args:
        share: Part of the layers that count as lower, rounded to whole layers.
        phase: Which of the two this training is; given by the run.

    Raises:
        RequestError: A share that is not between 0 and 1, or another phase.
    """

    needs_retain: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = False
    learns_first: ClassVar[bool] = True
    learning: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "loss_type": "ga",
            "retain_loss_type": "nll",
            "retain_per_forget": 4,
            "per_device_train_batch_size": 16,
            "max_steps": 600,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "linear",
        }
    )

    share: float = 0.5
    phase: Literal["learn", "unlearn"] = "unlearn"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise RequestError(f"depth_hidden: share is {self.share}, it must lie between 0 and 1")
        if self.phase not in ("learn", "unlearn"):
            raise RequestError(f"depth_hidden: phase is {self.phase!r}, it must be 'learn' or 'unlearn'")

    def training_rows(self, bundle: DataBundle) -> DataBundle:
        """While learning, the facts to be hidden are among those that are learned."""
        return everything_retained(bundle) if self.phase == "learn" else bundle

    def term_weights(self, step: int) -> TermWeights:
        """Learning is the retain term alone."""
        return TermWeights(forget=0.0) if self.phase == "learn" else TermWeights()

    def prepare(self, context: TrainingContext) -> None:
        """Leaves free only what this phase trains. Embeddings are frozen in both, as in the paper."""
        lower = {id(parameter) for parameter in lower_layers(context.model, self.share)}
        embeddings = {id(parameter) for parameter in context.model.get_input_embeddings().parameters()}  # type: ignore[operator]
        for parameter in context.model.parameters():
            learned_here = id(parameter) in lower
            if id(parameter) in embeddings or learned_here != (self.phase == "learn"):
                parameter.requires_grad_(False)


def lower_layers(model: nn.Module, share: float) -> list[nn.Parameter]:
    """The parameters of the decoder layers below a cut.

    Args:
        model: A causal language model.
        share: Part of the layers below the cut, rounded to whole layers; at least one layer is on either side.

    Raises:
        RequestError: The model has a single layer, or its layers were not found.
    """
    layers = decoder_layers(model)
    if len(layers) < 2:
        raise RequestError("depth_hidden: the model has a single layer, which cannot be cut in two")
    cut = min(max(round(share * len(layers)), 1), len(layers) - 1)
    return [parameter for layer in layers[:cut] for parameter in layer.parameters()]
