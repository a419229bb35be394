"""A forget loss on the rows whose answers are still more likely than chance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..losses.base import LabelScores, Loss, LossSum

_TAKEN_OVER = (
    *("uses_logits", "uses_reference_logps", "uses_reference_logits", "uses_reference_hidden"),
    *("uses_alternates", "uses_alternate_labels", "default_alternates", "uses_labels", "metric"),
)


@dataclass
class AboveChance(Loss):
    r"""Another forget loss, without the rows that it has lowered enough.

    A row counts while :math:`\frac{1}{|y|} \log p(y \mid x) \ge \ell_0`. The gradient of gradient ascent at a label is
    in proportion to one minus its probability: it is largest on answers that are unlikely already, and would take them
    ever further below chance, while the rows that are known best hardly move the weights.

    Attributes:
        loss: The loss; on the rows' own answers and the model's log-probabilities.
        least: :math:`\ell_0`, in nats per token.
    """

    loss: Loss
    least: float

    def __post_init__(self) -> None:
        for name in _TAKEN_OVER:
            setattr(self, name, getattr(self.loss, name))

    @property
    def hidden_layer(self) -> int | None:
        """That of the loss."""
        return self.loss.hidden_layer

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """Those of the loss."""
        return self.loss.trained_layers

    def count(self, labels: Tensor) -> Tensor:
        """All rows count in the mean, so that a step is shorter the fewer of them are left."""
        return self.loss.count(labels)

    def __call__(self, scores: LabelScores) -> LossSum:
        """The sum over the rows that are left."""
        with torch.no_grad():
            left = scores.row_logps >= self.least * scores.row_lengths.to(scores.row_logps)
            kept = left[scores.rows]
        return self.loss(
            replace(
                scores,
                labels=scores.labels[kept],
                rows=scores.rows[kept],
                **{name: value[kept] for name in _BY_LABEL if (value := getattr(scores, name)) is not None},
            )
        )


_BY_LABEL = ("logits", "hidden", "reference_logits", "reference_hidden")
"""Fields of :class:`LabelScores` with a row for every label."""


def above_chance(loss: Loss, least: float | None) -> Loss:
    """The loss on the rows that are above chance.

    Args:
        loss: A forget loss.
        least: Mean log-probability per token below which an answer is left alone; ``None`` if it is not known.

    Returns:
        The loss itself if it does not lower the rows' own answers by their log-probabilities.
    """
    lowers = loss.uses_logits and loss.uses_labels and not loss.uses_alternates
    return AboveChance(loss, least) if lowers and least is not None else loss
