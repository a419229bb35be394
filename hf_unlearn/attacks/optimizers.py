"""The optimizers of attackers, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MissingExtraError, RequestError

if TYPE_CHECKING:
    import torch

OptimizerName = Literal["adamw", "lion"]


def check_optimizer(optimizer: OptimizerName, dtype: str, name: str) -> None:
    """Refuse a type of weights that the optimizer cannot step.

    Raises:
        RequestError: AdamW divides by a number that float16 rounds to zero.
    """
    if optimizer == "adamw" and dtype == "float16":
        raise RequestError(f"{name}.dtype is float16, in which AdamW divides by zero: use float32, or optimizer: lion")


def make_optimizer(optimizer: OptimizerName, weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    """An optimizer without weight decay.

    Raises:
        MissingExtraError: Its library is not installed.
    """
    return _MAKERS[optimizer](weights, rate)


def _adamw(weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(weights, lr=rate, weight_decay=0.0, fused=True)


def _lion(weights: Sequence[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    """Lion (arXiv 2302.06675, algorithm 2), betas 0.9 and 0.99: ``w -= rate * sign(0.9 m + 0.1 g)``."""
    try:
        from bitsandbytes.optim import Lion32bit
    except ImportError:
        raise MissingExtraError("optimizer: lion", "bitsandbytes", "quantization") from None
    import torch

    class Lion(Lion32bit):
        """On a CPU the library compiles its step anew for every shape of weights and every rate of the warm-up."""

        def step(self, closure: Any = None) -> Any:
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    optimizer: torch.optim.Optimizer = Lion(weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    return optimizer


_MAKERS: Mapping[OptimizerName, Callable[[Sequence[torch.Tensor], float], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "lion": _lion,
}
