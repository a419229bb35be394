"""Sign filter: only the part of the forget gradient that does not work against the retain set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import RequestError
from . import ROBUST
from .base import Gradients, TermName, TrainingPart
from .weights import load_tensors, save_tensors

FILTER_FILE = "sign_filter.safetensors"


@ROBUST.register(
    "sign-filter",
    summary="Entries of the forget gradient whose sign differs from the retain gradient's are dropped.",
    paper="arXiv 2506.12484, section 3 (masking)",
    defaults={"momentum": 0.9, "norm": 0.0},
    needs=("retain",),
)
@dataclass
class SignFilter(TrainingPart):
    r"""Lets a weight forget only if the retain term would move it the same way.

    .. math::
        r \leftarrow m r + (1 - m) g_{retain}, \qquad
        g_{forget} \leftarrow g_{forget} \odot [\operatorname{sign} g_{forget} = \operatorname{sign} r]

    A step along what is left lowers the retain loss too, to first order. Entries where the accumulated retain gradient
    is exactly zero are dropped as well, as the rule says. The retain term's own gradient is added unfiltered. If a
    step has no retain gradient of its own, the accumulated one counts; before there is any, nothing is filtered.

    The retain loss must not be one that compares with the target (``kl``, ``hidden``): its gradient is zero in the
    first step, and half of the forget gradient would be dropped by the sign of rounding errors.

    This is one of the three parts of MUDMAN. Its adversary, which relearns while the model is unlearned, is not here;
    its normalization is ``norm``.

    Cost: no extra pass, but the two terms are computed separately; the gradients of both and the accumulated one in
    memory.

    Args:
        momentum: ``m``; 0 uses only the step's own retain gradient. MUDMAN's code uses 0.9.
        norm: Scale the forget gradient to this norm over all weights before it is filtered (MUDMAN does, with its
            learning rate as the norm); 0 leaves it. An optimizer such as Adam makes it pointless.

    Raises:
        RequestError: A value is out of range.

    Source: Sondej et al., *Robust LLM Unlearning with MUDMAN* (arXiv 2506.12484).
    """

    needs_retain: ClassVar[bool] = True
    changes_gradients: ClassVar[bool] = True

    momentum: float = 0.9
    norm: float = 0.0
    _retain: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise RequestError(f"sign-filter: momentum is {self.momentum}, it must lie from 0 to under 1")
        if self.norm < 0:
            raise RequestError(f"sign-filter: norm is {self.norm}, it must be 0 or more")

    def check(self, config: Any) -> None:
        """Refuses retain losses that are smallest at the target, where the run starts: signs would be rounding."""
        loss = config.build_retain_loss()
        if loss.uses_reference_logits or loss.uses_reference_hidden:
            raise RequestError(
                f"sign-filter: the gradient of retain_loss_type {config.retain_loss_type} is zero at the start, and"
                " signs of its rounding errors mean nothing: use nll"
            )

    @torch.no_grad()
    def change_gradients(self, gradients: dict[TermName, Gradients]) -> dict[TermName, Gradients]:
        """Filters the forget gradient."""
        for name, gradient in gradients.get("retain", {}).items():
            if name in self._retain:
                self._retain[name] = self._retain[name].to(gradient.device).lerp(gradient, 1 - self.momentum)
            else:
                self._retain[name] = gradient * (1 - self.momentum)
        if "forget" not in gradients or not self._retain:
            return gradients
        forget, scale = gradients["forget"], self._scale(gradients["forget"])
        filtered = {name: self._filtered(name, gradient, scale) for name, gradient in forget.items()}
        return {**gradients, "forget": filtered}

    def _filtered(self, name: str, gradient: Tensor, scale: float) -> Tensor:
        retain = self._retain.get(name)
        if retain is None:  # the retain term does not depend on this weight at all
            return gradient * scale
        return torch.where(gradient.sign() == retain.to(gradient.device).sign(), gradient * scale, 0.0)

    def _scale(self, gradients: Gradients) -> float:
        if not self.norm:
            return 1.0
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64).item() for gradient in gradients.values()]
        length = math.hypot(*norms)
        return self.norm / length if length else 1.0

    def save_state(self, folder: Path) -> None:
        """The accumulated retain gradient."""
        save_tensors(folder / FILTER_FILE, self._retain)

    def load_state(self, folder: Path) -> None:
        """Restores it."""
        self._retain = load_tensors(folder / FILTER_FILE, "sign-filter")
