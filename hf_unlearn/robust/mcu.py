"""Minor-component unlearning: a hidden-state loss that no longer sees the main directions of forget activations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import RequestError
from ..losses.base import LabelScores, Loss, LossSum, given, label_positions
from ..models.decoder import check_layer, decoder_layers, watched_layers
from . import ROBUST
from .base import TrainingContext, TrainingPart


@ROBUST.register(
    "mcu",
    summary="A hidden-state loss sees forget activations without their main directions, so that minor ones change.",
    paper="arXiv 2605.11685",
    defaults={"components": 8},
    needs=("hidden states",),
)
@dataclass
class MinorComponents(TrainingPart):
    r"""Takes the main directions of the forget set's hidden states out of what a hidden-state loss is given.

    .. math:: h' = (I - v_{K-1} v_{K-1}^T) \cdots (I - v_1 v_1^T) (I - \bar v \bar v^T) \, h

    with :math:`\bar v` the mean hidden state at length 1 and :math:`v_1, v_2, \ldots` the leading principal
    components, all of the layer that the loss looks at, over the positions that predict forget labels, at the model's
    original weights. What is changed in the main directions is easily changed back by relearning; what is left to the
    loss are the minor ones. The retain loss sees hidden states as they are.

    The loss has to look at hidden states alone: ``rmu``. As published the method also takes unlearning steps of fixed
    length after another projection (CIR) and retains on text of the neighbourhood; both are separate from this and
    not here, nor is the paper's second loss, on the outputs of several MLPs.

    The mean is projected out first and is not at right angles to the components, so a little of it is left, as in the
    released code. The paper's text could not be read. Components are exact here (there: randomized).

    Cost: before the first step a forward pass over the forget set and an eigendecomposition of the width of the
    model, in float64.

    Args:
        components: Directions taken out, the mean among them, at least 1 and less than the width. Published: 8
            (WMDP-Bio) and 32 (Years), at layers 6 to 12 of 32.

    Raises:
        RequestError: ``components`` is out of range, or the forget loss does not look at hidden states alone.

    Source: Xiao et al., *Robust LLM Unlearning Against Relearning Attacks: The Minor Components in Representations
    Matter* (arXiv 2605.11685), after its released code.
    """

    components: int = 8
    _directions: Tensor | None = field(default=None, init=False, repr=False)
    _share: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.components < 1:
            raise RequestError(f"mcu: components is {self.components}; it must be at least 1")

    def check(self, config: Any) -> None:
        """Refuses losses that see more than hidden states."""
        loss = config.build_forget_loss()
        if loss.hidden_layer is None or loss.uses_logits or loss.needs_reference or loss.needs_alternates:
            raise RequestError(
                f"mcu: loss_type {config.loss_type} does not look at hidden states alone, so there is nothing to take"
                " their main directions out of: set loss_type to rmu"
            )

    @torch.no_grad()
    def prepare(self, context: TrainingContext) -> None:
        """Finds the directions at the original weights, which a resumed run has too."""
        layer = context.forget_loss.hidden_layer
        assert layer is not None  # `check` was called
        check_layer(context.model, layer, "mcu: the forget loss's layer")
        watched = {layer: decoder_layers(context.model)[layer]}
        states = []
        for batch in context.batches(context.forget_rows):
            positions = label_positions(batch["labels"])

            def at_labels(output: Tensor, positions: Tensor = positions) -> Tensor:
                return output[positions.to(output.device)].double()

            with watched_layers(watched, at_labels) as kept:
                context.score(batch)
            states.append(kept[layer])
        found = torch.cat(states)
        if self.components >= found.shape[1]:
            raise RequestError(
                f"mcu: components is {self.components}, and hidden states have {found.shape[1]} dimensions: lower it"
            )
        self._directions, self._share = main_directions(found, self.components)

    def forget_loss(self, loss: Loss, step: int, steps: int) -> Loss:
        """The same loss on what is left."""
        assert self._directions is not None  # prepare was called
        return MinorLoss(loss, self._directions)

    def outcome(self) -> dict[str, Any]:
        """The share of the forget states' squared length that the loss does not see."""
        return {"share_taken_out": round(self._share, 4)}


def main_directions(states: Tensor, count: int) -> tuple[Tensor, float]:
    """The mean at length 1 and the leading principal components.

    Args:
        states: ``[n, width]``.
        count: How many directions, the mean among them.

    Returns:
        ``[count, width]`` in the type of ``states``, and the share of the states' squared length that goes with them.
    """
    mean = states.mean(dim=0)
    centred = states - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    components = vectors.T.flip(0)[: count - 1]
    directions = torch.cat([torch.nn.functional.normalize(mean, dim=0)[None], components])
    left = without(states, directions).square().sum() / states.square().sum().clamp(min=torch.finfo(states.dtype).tiny)
    return directions, 1 - float(left)


def without(states: Tensor, directions: Tensor) -> Tensor:
    """States ``[n, width]`` with directions ``[count, width]`` of length 1 projected out, one after the other."""
    for direction in directions.to(states):
        states = states - (states @ direction)[:, None] * direction
    return states


class MinorLoss(Loss):
    """A loss on hidden states that sees them without some directions.

    Args:
        loss: The loss; it uses nothing but hidden states.
        directions: ``[count, width]``, of length 1.
    """

    uses_logits: ClassVar[bool] = False

    def __init__(self, loss: Loss, directions: Tensor) -> None:
        self._loss, self._directions = loss, directions

    @property
    def hidden_layer(self) -> int | None:
        """That of the loss."""
        return self._loss.hidden_layer

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """Those of the loss."""
        return self._loss.trained_layers

    def count(self, labels: Tensor) -> Tensor:
        """That of the loss."""
        return self._loss.count(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """That of the loss, of what is left of ``hidden`` ``[N, width]``."""
        hidden = given(scores.hidden, "hidden states")
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        return self._loss(replace(scores, hidden=without(wide, self._directions)))
