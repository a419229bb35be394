"""What a model does to the output of its head before it calls it logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RequestError

# Keys of model configurations, as transformers 5 has them.
_MULTIPLIERS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
_DIVISORS = ("logits_scaling",)  # Granite
_CAPS = ("final_logit_softcapping",)  # Gemma 2, 3 and 4


@dataclass(frozen=True)
class Tail:
    """``cap tanh(scale z / cap)``, or ``scale z`` without a cap.

    Attributes:
        scale: Factor on the head's output.
        cap: Greatest absolute value of a logit.
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, outputs: Tensor) -> Tensor:
        """Logits of the head's outputs, any shape."""
        scaled = outputs if self.scale == 1.0 else outputs * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap


def likely_tails(model: nn.Module) -> Iterator[Tail]:
    """None at all first, then what the model's configuration says.

    Whoever uses one has to compare with the model: a configuration may hold such a number for another purpose.
    """
    yield Tail()
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale, cap = 1.0, None
    for key in _MULTIPLIERS:
        scale *= getattr(config, key, None) or 1.0
    for key in _DIVISORS:
        scale /= getattr(config, key, None) or 1.0
    for key in _CAPS:
        cap = getattr(config, key, None) or cap
    if (scale, cap) != (1.0, None):
        yield Tail(scale, cap)


def output_head(model: nn.Module) -> nn.Module:
    """The module that maps hidden states to the vocabulary.

    Raises:
        RequestError: If the model has none, so that it is no causal language model.
    """
    head_of: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = head_of()
    if head is None:
        raise RequestError(f"{type(model).__name__} has no output head: unlearning needs a causal language model")
    return head
