"""The retain weight that keeps the model within a KL divergence of the target."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import RequestError
from . import ROBUST
from .steered_weight import SteeredRetainWeight


@ROBUST.register(
    "kl-budget",
    summary="The retain weight is steered so that the KL divergence on retain text stays at a budget.",
    paper="this project (the constraint of arXiv 2506.05314, the budget of arXiv 2606.17168)",
    defaults={"budget": 0.01, "rate": 0.1, "memory": 0.8, "largest": 1000.0},
    needs=("retain", "reference"),
)
@dataclass
class KLBudget(SteeredRetainWeight):
    r"""Raises the retain weight while the divergence is above the budget, and lowers it while it is below.

    .. math:: a \leftarrow \mu a + (1 - \mu) KL, \qquad
              \log w \leftarrow \log w + \eta \, \mathrm{clip}\!\left(\log \frac{a}{b}, -1, 1\right)

    after every step, with ``KL`` the mean divergence of that step's retain labels in nats per token (before the weight
    is applied), ``a`` its running mean and ``b`` the budget. Steps are relative, so one setting serves models and
    forget losses of any scale: a forget loss of ten times the size only ends at ten times the weight. A fixed weight
    makes methods spend different divergence; a budget makes them comparable.

    Below the budget the weight falls until forgetting has used it up, so a forget loss without a bound (``ga``)
    continues as long as there are steps: the budget limits what is spent, not when to stop. The weight stays between
    0.0001 and ``largest`` times ``retain_weight``, with which the first step is made.

    Needs the retain loss ``kl``. Cost: none.

    Args:
        budget: Nats per token, above 0; 0.01 in RepSelect (arXiv 2606.17168), there on ordinary text.
        rate: Largest relative change in a step (:math:`\eta`), above 0.
        memory: Share of the running mean that is kept in a step (:math:`\mu`), from 0 to under 1.
        largest: Largest factor, above 1.

    Raises:
        RequestError: If a value is out of range.
    """

    state_file: ClassVar[str] = "kl_budget.json"
    measured: ClassVar[str] = "kl/retain"

    budget: float = 0.01
    rate: float = 0.1
    memory: float = 0.8
    largest: float = 1000.0
    factor: float = field(default=1.0, init=False, repr=False)
    _mean: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("budget", "rate"):
            if not getattr(self, key) > 0:
                raise RequestError(f"kl-budget: {key} is {getattr(self, key)}; it must be above 0")
        if not 0 <= self.memory < 1:
            raise RequestError(f"kl-budget: memory is {self.memory}; it must be from 0 to under 1")
        if not self.largest > 1:
            raise RequestError(f"kl-budget: largest is {self.largest}; it must be above 1")

    def check(self, config: Any) -> None:
        """Refuses retain losses that are not a KL divergence.

        Raises:
            RequestError: Names the retain loss that is needed.
        """
        if config.build_retain_loss().metric != "kl":
            raise RequestError(
                f"kl-budget: the retain loss is {config.retain_loss_type!r}, which measures no KL divergence: set "
                "retain_loss_type to kl, or use dual-ascent, which takes any retain loss"
            )

    def next_factor(self, value: float, step: int) -> float:
        """A relative step towards the budget."""
        self._mean = value if self._mean is None else self.memory * self._mean + (1 - self.memory) * value
        off = math.log(max(self._mean, 1e-12) / self.budget)
        return min(self.largest, self.factor * math.exp(self.rate * min(1.0, max(-1.0, off))))

    def remember(self) -> dict[str, float]:
        """The running mean."""
        return {} if self._mean is None else {"mean": self._mean}

    def recall(self, kept: dict[str, float]) -> None:
        """The running mean."""
        self._mean = kept.get("mean")
