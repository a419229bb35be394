"""The retain weight of a constrained problem, by dual ascent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import RequestError
from . import ROBUST
from .steered_weight import SteeredRetainWeight


@ROBUST.register(
    "dual-ascent",
    summary="The retain weight rises while the retain loss is above a limit, and falls while it is below.",
    paper="arXiv 2506.05314",
    defaults={"limit": 0.0, "rate": 1.0, "start": 50.0, "warmup_steps": 0},
    needs=("retain",),
)
@dataclass
class DualAscent(SteeredRetainWeight):
    r"""Minimizes the forget loss under the constraint that the retain loss stays at or below a limit.

    .. math:: \min_\theta L_{forget}(\theta) \;\text{ s.t. }\; L_{retain}(\theta) \le \epsilon, \qquad
              \lambda \leftarrow \max\left(0, \lambda + \eta \,(L_{retain} - \epsilon)\right)

    after every step, with the retain loss of that step. :math:`\lambda` replaces the retain weight: the
    configured ``retain_weight`` is a factor on it and is best left at 1. It is held at 0.0001 or more, because a term
    that is not computed cannot show that it is needed again.

    Works with any forget loss and any retain loss; with forget loss ``pdu`` and retain loss ``nll`` this is the
    published method. Cost: none. With views (``precision-views`` and others) the retain loss is the mean over them.

    Args:
        limit: What the retain loss may be (:math:`\epsilon`), in its own unit. Required; with ``nll`` take
            the target's own retain loss plus a little.
        rate: Step size :math:`\eta`; 1 in public settings.
        start: :math:`\lambda` of the first step; 50 to 100 in the paper.
        warmup_steps: Steps before the first change; public settings wait five epochs.

    Raises:
        RequestError: If a value is out of range.

    Source: Entesari et al., *Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models*
    (arXiv 2506.05314).
    """

    state_file: ClassVar[str] = "dual_ascent.json"

    limit: float = 0.0
    rate: float = 1.0
    start: float = 50.0
    warmup_steps: int = 0
    factor: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("rate", "start"):
            if not getattr(self, key) > 0:
                raise RequestError(f"dual-ascent: {key} is {getattr(self, key)}; it must be above 0")
        if self.warmup_steps < 0:
            raise RequestError(f"dual-ascent: warmup_steps is {self.warmup_steps}; it must be 0 or more")
        self.factor = self.start

    def check(self, config: Any) -> None:
        """Refuses a run without a limit.

        Raises:
            RequestError: The limit was not given.
        """
        if not self.limit > 0:
            raise RequestError(
                f"dual-ascent: limit is {self.limit}; give the greatest retain loss that is allowed, above 0 (for nll "
                "the target's own retain loss plus a little)"
            )

    def next_factor(self, value: float, step: int) -> float:
        """One step of gradient ascent on the dual."""
        return self.factor if step <= self.warmup_steps else self.factor + self.rate * (value - self.limit)
