"""The objective of a step: which terms count in it and how much, and what their losses count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.pairing import PaddedRows
from ..losses.base import Loss
from ..robust.base import TERMS, TermName
from .router import router_share
from .terms import Term


@dataclass(frozen=True)
class Objective:
    """What one optimizer step lowers.

    Attributes:
        losses: The loss of each term.
        weights: The weight of each term as the run's settings have it.
        factors: What parts multiply it by in this step. A term with factor 0 is left out.
        micro_batches: Of the whole step, on all processes.
    """

    losses: Mapping[TermName, Loss]
    weights: Mapping[TermName, float]
    factors: Mapping[TermName, float]
    micro_batches: int

    def active(self, inputs: Mapping[str, Any]) -> list[TermName]:
        """Terms of a micro-batch that count in this step."""
        return [name for name in TERMS if self.factors[name] and name in inputs]

    def rows(self, inputs: Mapping[str, PaddedRows]) -> int:
        """Rows of a micro-batch, those of the terms that count."""
        return sum(len(inputs[name]["labels"]) for name in self.active(inputs))

    def counts(self, batches: Sequence[Mapping[str, PaddedRows]], device: torch.device) -> Tensor:
        """What forget and retain loss count in some micro-batches: ``[2]``."""
        counts = torch.zeros(len(TERMS), dtype=torch.int64, device=device)
        forget, retain = self.losses["forget"], self.losses["retain"]
        counted = "forget" if forget.uses_labels else "alternate"
        for batch in batches:
            if counted in batch:
                counts[0] += forget.count(batch[counted]["labels"].to(device))
            if "retain" in batch:
                counts[1] += retain.count(batch["retain"]["labels"].to(device))
        return counts

    def weighted_sum(self, terms: Sequence[Term], counts: Tensor, rows: int, router: float) -> Tensor:
        """The share of the objective that some terms of a micro-batch make up, a scalar.

        Args:
            terms: Terms that count in this step.
            counts: ``[2]``, what forget and retain loss count over the whole step, on the terms' device.
            rows: Rows of the micro-batch, also where the terms are of one piece of it only.
            router: Weight of the router loss; see :func:`~hf_unlearn.trainer.router.router_coefficient`.
        """
        count_of = dict(zip(TERMS, counts.clamp(min=1), strict=True))
        shares = [
            self.factors[term.name] * self.weights[term.name] * term.sum.total / count_of[term.name] for term in terms
        ]
        routers = [(term.forward.router, term.forward.n_rows) for term in terms]
        share = router_share(routers, rows, router, self.micro_batches)
        return torch.stack(shares if share is None else [*shares, share]).sum()
