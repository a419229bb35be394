"""The loss that attackers train on, with the output head at the labels only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def mean_label_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood of the labels, as causal models compute it themselves when they are given them.

    Logits are made where the next token is a label, and nowhere else: prompts and padding never meet the vocabulary.

    Args:
        model: A causal language model, with adapters or without.
        batch: ``input_ids``, ``attention_mask`` and ``labels`` (unshifted, -100 for none), each ``[rows, time]``.

    Returns:
        A scalar in at least single precision; not a number where there is no label.

    Raises:
        RequestError: The model has no output head.
    """
    from ..losses.base import label_positions
    from ..losses.fused import label_logps
    from ..models.head import narrowed_head, output_head

    labels = batch["labels"]
    positions = label_positions(labels)
    rows, times = positions.nonzero(as_tuple=True)
    with narrowed_head(output_head(model), (rows, times)):
        logits: Tensor = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
    return -label_logps(logits, labels[rows, times + 1].to(logits.device)).mean()
