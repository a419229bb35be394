"""signSGD, an optimizer that transformers does not have: every weight moves by the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn

SIGN_SGD = "signsgd"
"""Its name as ``optim``."""


class SignSGD(torch.optim.Optimizer):
    r"""Steps along the sign of the gradient.

    .. math:: \theta \leftarrow (1 - \eta w) \, \theta - \eta \, \operatorname{sign}(g)

    with ``w`` the weight decay. It keeps no state, and clipping gradients by their norm changes nothing. The learning
    rate is what Adam's first steps take, so rates for Adam are a start.

    Args:
        params: Parameters, or groups of them, as for any optimizer of torch.
        lr: Learning rate, at least 0.
        weight_decay: Apart from the gradient, at least 0.

    Raises:
        ValueError: A value is out of range.

    Source: Bernstein et al., *signSGD: Compressed Optimisation for Non-Convex Problems* (arXiv 1802.04434); for
    unlearning as in Lang et al., *Downgrade to Upgrade* (arXiv 2510.00761), where it resists quantization better than
    Adam.
    """

    def __init__(self, params: Iterable[nn.Parameter] | Any, lr: float = 1e-5, weight_decay: float = 0.0) -> None:
        for key, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"signsgd: {key} is {value}, it must be at least 0")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient.

        Args:
            closure: Computes the loss anew, as for any optimizer of torch.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(group["lr"] * weight.grad.sign())
        return loss
