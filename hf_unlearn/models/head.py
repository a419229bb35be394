"""The output head: logits at chosen positions only, so that prompts and padding never meet the vocabulary.

Training narrows the head's input to the labels and lets the model compute its logits from them. Scoring extracts the
head's input, and computes logits of a few positions at a time. References keep the head's input and compute logits
later. The latter two themselves apply what a model does to its head's output, and compare with the model first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RequestError

# Keys of model configurations, as transformers 5 has them.
_MULTIPLIERS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
_DIVISORS = ("logits_scaling",)  # Granite
_CAPS = ("final_logit_softcapping",)  # Gemma 2, 3 and 4


def output_head(model: nn.Module) -> nn.Module:
    """The module that maps hidden states to the vocabulary.

    Raises:
        RequestError: If the model has none, so it is not a causal language model.
    """
    head_of: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = head_of()
    if head is None:
        raise RequestError(f"{type(model).__name__} has no output head: unlearning needs a causal language model")
    return head


@contextmanager
def narrowed_head(
    head: nn.Module, chosen: Tensor | tuple[Tensor, Tensor], *, logits: bool = True
) -> Iterator[list[Tensor]]:
    """A head that sees only the chosen positions, within the block.

    A hook on the head does it, so that it works through any wrapper (DDP, FSDP, DeepSpeed, adapters) and keeps
    whatever the model does to its logits afterwards.

    Args:
        head: See :func:`output_head`.
        chosen: An index of ``[batch, time]``: a boolean mask, or row and time of each position.
        logits: Whether the model computes logits of the chosen positions; otherwise it computes none at all.

    Yields:
        A list that gets ``[N, width]``, the head's input at the chosen positions, at each call of the head.
    """
    taken: list[Tensor] = []

    def narrow(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = inputs[0]
        if isinstance(chosen, Tensor):
            taken.append(states[chosen.to(states.device)])
        else:
            rows, times = chosen
            taken.append(states[rows.to(states.device), times.to(states.device)])
        return (taken[-1] if logits else taken[-1][:0], *inputs[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield taken
    finally:
        handle.remove()


@dataclass(frozen=True)
class Tail:
    """What a model does to the output of its head before it calls it logits.

    ``cap tanh(scale z / cap)``, or ``scale z`` without a cap.

    Attributes:
        scale: Factor on the head's output.
        cap: Largest absolute value of a logit.
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, outputs: Tensor) -> Tensor:
        """Logits of the head's outputs, any shape, by the operations of the model itself."""
        scaled = outputs if self.scale == 1.0 else outputs * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def folded(self, outputs: Tensor) -> Tensor:
        """The same with scale and cap in one factor. With a cap the last digit can differ; records use this form."""
        return self(outputs) if self.cap is None else torch.tanh(outputs * (self.scale / self.cap)) * self.cap


def likely_tails(model: nn.Module) -> Iterator[Tail]:
    """The tail in the model's configuration first, then none at all.

    The caller has to compare it with the model (:func:`matching_tail`): a configuration may hold such a number for
    another purpose.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale, cap = 1.0, None
    for key in _MULTIPLIERS:
        scale *= _number(config, key) or 1.0
    for key in _DIVISORS:
        scale /= _number(config, key) or 1.0
    for key in _CAPS:
        cap = _number(config, key) or cap
    if (scale, cap) != (1.0, None):
        yield Tail(scale, cap)
    yield Tail()


def matching_tail(
    model: nn.Module, logits_by: Callable[[Tail], Tensor], expected: Tensor, same: Callable[[Tensor, Tensor], bool]
) -> Tail | None:
    """The tail that gives the model's own logits; ``None`` if no candidate does.

    Args:
        model: The model.
        logits_by: Computes logits from the head's output with a tail.
        expected: The model's own logits, in float32.
        same: Whether logits (first) are as close to the expected ones as required.
    """
    return next((tail for tail in likely_tails(model) if same(logits_by(tail).float(), expected)), None)


def _number(config: Any, key: str) -> float | None:
    value = getattr(config, key, None)
    return value if isinstance(value, int | float) else None
