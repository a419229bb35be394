"""The router loss of mixture-of-experts models, which keeps experts evenly used.

As in transformers and TRL it is part of the objective where the configuration has `output_router_logits`, with
its own coefficient. A model that was trained with it and is unlearned without it may send everything to
a few experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def router_coefficient(model: nn.Module) -> float:
    """Weight of the router loss in the objective; 0 for models without one."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    if not getattr(config, "output_router_logits", False):
        return 0.0
    return float(getattr(config, "router_aux_loss_coef", 0.0))


def router_share(
    routers: Sequence[tuple[Tensor | None, int]], rows: int, coefficient: float, micro_batches: int
) -> Tensor | None:
    """What forward passes of one micro-batch add to the objective.

    Args:
        routers: The router loss of a pass (a mean over its tokens and layers), and for how many rows it stands.
        rows: Rows of the micro-batch, so that terms which are passed apart add up to what they are together.
        coefficient: See :func:`router_coefficient`.
        micro_batches: Of the whole step, on all processes.

    Returns:
        ``coefficient`` times the mean over rows, divided by ``micro_batches``; ``None`` where there is nothing.
    """
    parts = [router * (share / rows) for router, share in routers if router is not None]
    if not coefficient or not parts:
        return None
    return coefficient * sum(parts[1:], parts[0]) / micro_batches
