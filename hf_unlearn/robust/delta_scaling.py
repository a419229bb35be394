"""Delta scaling: unlearning is taken a little further, until quantization no longer brings anything back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..errors import RequestError
from ..models.decoder import linear_weights
from ..quantization.grids import Grid, find_grid, on_grid
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .weights import Weights, exchanged, refuse_adapters

logger = logging.getLogger(__name__)

SCAN = 4
"""Scales that are tried from 1 to the largest before bisection."""

State = Literal["short", "passes", "over"]


@dataclass(frozen=True)
class Evaluation:
    """One scale and what it does.

    Attributes:
        scale: Factor on what training changed.
        recovered: By grid, how far the forget score moves back towards the target's under that grid.
        kl: Divergence from the target on the retain set at full precision, nats per token.
        state: ``short`` if a grid brings too much back, ``over`` if it costs too much, else ``passes``.
    """

    scale: float
    recovered: Mapping[str, float]
    kl: float
    state: State

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        shares = {name: round(share, 4) for name, share in self.recovered.items()}
        return {"scale": round(self.scale, 4), "recovered": shares, "kl": round(self.kl, 6), "state": self.state}


@ROBUST.register(
    "delta-scaling",
    summary="After training, the change is scaled up by the smallest factor with which no grid recovers anything.",
    paper="this project (see docs/procedures.md)",
    defaults={
        "grids": ["nf4", "fp4", "int4-g128"],
        "max_recovered": 0.1,
        "max_scale": 4.0,
        "bisections": 4,
        "max_kl": 0.01,
        "kl_growth": 4.0,
    },
    needs=("retain", "reference"),
)
@dataclass
class DeltaScaling(TrainingPart):
    r"""Finds the least :math:`\lambda \ge 1` for which the unlearned model's forgetting survives every grid.

    .. math:: \theta = \theta_o + \lambda (\theta_u - \theta_o), \qquad
              r_q(\lambda) = \frac{s(Q_q(\theta)) - s(\theta_u)}{s(Q_q(\theta_o)) - s(\theta_u)} \le r_{max}

    with ``s`` the mean answer probability on the forget rows (geometric over the tokens of an answer) and :math:`Q_q`
    the linear layers rounded to grid ``q``: nothing is compared with a model that never knew, only with how much this
    one has forgotten at full precision. A grid under which the target forgets them too (a denominator of at most zero)
    has nothing to bring back and is left out.

    The noise that rounding puts on a change shrinks against it with the square root of :math:`\lambda`, forgetting
    grows with :math:`\lambda`, and divergence on the retain set with about its square: a scale may cost ``max_kl``, or
    ``kl_growth`` times what the unscaled model costs, whichever is more. Four scales from 1 to ``max_scale`` are tried
    in turn, then the interval before the first that is not short of it is halved ``bisections`` times: forgetting need
    not grow evenly with the scale, so the chosen scale has always been measured itself. If none passes, the weights
    stay as they were trained, and the log and the training's metrics say so.

    This is a guess at the gate's answer, made with simulated grids while the weights are in memory. The gate itself
    judges the files.

    Cost: for each scale tried (at most ``4 + bisections``) a forward pass over the retain set and one over the forget
    set for every grid; a copy of the trained weights before and after, in the CPU's memory. Not resumable: a run that
    is stopped here restarts the search.

    Args:
        grids: Names of quantization grids.
        max_recovered: Largest share that a grid may bring back.
        max_scale: Largest factor tried, above 1.
        bisections: Scales tried after the first four; 0 for none.
        max_kl: Divergence from the target that is always allowed, nats per token. RepSelect's budget is 0.01.
        kl_growth: Divergence that is allowed as a multiple of the unscaled model's, at least 1.

    Raises:
        RequestError: A number is out of range, a grid is unknown or does not fit the model, or adapters are trained.
    """

    grids: tuple[str, ...] | list[str] = ("nf4", "fp4", "int4-g128")
    max_recovered: float = 0.1
    max_scale: float = 4.0
    bisections: int = 4
    max_kl: float = 0.01
    kl_growth: float = 4.0
    _original: Weights | None = field(default=None, init=False, repr=False)
    _outcome: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    needs_retain: ClassVar[bool] = True
    uses_kl: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.grids, str) or not self.grids:
            raise RequestError(f"delta-scaling: grids is {self.grids!r}; it must be a list of at least one grid")
        for name in self.grids:
            find_grid(name)
        for key, fits, wanted in (
            ("max_recovered", 0 <= self.max_recovered < 1, "from 0 to below 1"),
            ("max_scale", self.max_scale > 1, "above 1"),
            ("bisections", self.bisections >= 0, "at least 0"),
            ("max_kl", self.max_kl >= 0, "at least 0"),
            ("kl_growth", self.kl_growth >= 1, "at least 1"),
        ):
            if not fits:
                raise RequestError(f"delta-scaling: {key} is {getattr(self, key)}; it must be {wanted}")

    def prepare(self, context: TrainingContext) -> None:
        """Keeps the original weights, and refuses a model that a grid does not fit."""
        refuse_adapters(context.model, "delta-scaling")
        for name in self.grids:
            check_grid(context.model, find_grid(name), "delta-scaling")
        self._original = Weights(context.model)

    @torch.no_grad()
    def finish(self, context: TrainingContext) -> None:
        """Searches, and leaves the model at the scale it found."""
        assert self._original is not None  # prepare was called
        original, trained, model = self._original, Weights(context.model), context.model
        level = forget_score(context)
        original.put_back(model)
        gaps = {name: score - level for name, score in self._under_grids(context).items() if score > level}
        original.move(model, trained, 1)
        budget = max(self.max_kl, self.kl_growth * context.retain_kl())

        def evaluate(scale: float) -> Evaluation:
            original.move(model, trained, scale)
            scores = self._under_grids(context)
            recovered = {name: (scores[name] - level) / gap for name, gap in gaps.items()}
            kl = context.retain_kl()
            short = any(share > self.max_recovered for share in recovered.values())
            return Evaluation(scale, recovered, kl, "over" if kl > budget else ("short" if short else "passes"))

        tried = search(evaluate, self.max_scale, self.bisections)
        best = min((found for found in tried if found.state == "passes"), key=lambda found: found.scale, default=None)
        scale = 1.0 if best is None else best.scale
        original.move(model, trained, scale)
        self._outcome = {"scale": round(scale, 4), "passes": best is not None, "tried": [e.to_dict() for e in tried]}
        if best is None:
            logger.warning(
                "delta-scaling: no scale up to %g keeps what the grids bring back within %g and the divergence within"
                " its budget: the trained weights are kept",
                self.max_scale,
                self.max_recovered,
            )

    def outcome(self) -> dict[str, Any]:
        """The scale, whether it passes, and all that were tried."""
        return self._outcome

    def _under_grids(self, context: TrainingContext) -> dict[str, float]:
        scores = {}
        for name in self.grids:
            with rounded(context.model, find_grid(name)):
                scores[name] = forget_score(context)
        return scores


def search(evaluate: Callable[[float], Evaluation], max_scale: float, bisections: int) -> list[Evaluation]:
    """Looks for the least scale that passes, from 1.

    Args:
        evaluate: Tries a scale.
        max_scale: The largest.
        bisections: Scales tried after the scan.

    Returns:
        All that was tried, in order.
    """
    tried = [evaluate(1.0)]
    while tried[-1].state == "short" and len(tried) < SCAN:
        tried.append(evaluate(max_scale ** (len(tried) / (SCAN - 1))))
    if len(tried) == 1 or tried[-1].state == "short":  # 1 passes already, or nothing does enough
        return tried
    low, high = tried[-2].scale, tried[-1].scale
    for _ in range(bisections):
        middle = evaluate((low + high) / 2)
        tried.append(middle)
        low, high = (middle.scale, high) if middle.state == "short" else (low, middle.scale)
    return tried


def forget_score(context: TrainingContext) -> float:
    """Mean answer probability of the forget rows at the current weights, geometric over the tokens of a row."""
    total, count = 0.0, 0
    for batch in context.batches(context.forget_rows):
        scores = context.score(batch)
        lengths = torch.bincount(scores.rows, minlength=scores.n_rows).clamp(min=1)
        total += float((scores.row_logps / lengths).exp()[scores.row_has_labels].double().sum())
        count += int(scores.row_has_labels.sum())
    return total / max(count, 1)


def check_grid(model: nn.Module, grid: Grid, part: str) -> None:
    """Refuses a model whose rows do not fall into a grid's groups.

    Raises:
        RequestError: Names the layer and its size, or there is no linear layer.
    """
    weights = linear_weights(model)
    if not weights:
        raise RequestError(f"{part}: the model has no linear layer besides its output head, so nothing is rounded")
    for name, weight in weights.items():
        if not grid.fits(weight.shape[-1]):
            raise RequestError(
                f"{part}: the grid {grid.name} has groups of {grid.group_size}, and {name} has rows of "
                f"{weight.shape[-1]}: name a grid with smaller groups"
            )


def rounded(model: nn.Module, grid: Grid) -> AbstractContextManager[None]:
    """The model with its linear layers rounded to a grid; afterwards they are as they were, bit for bit."""
    return exchanged(
        (weight, on_grid(weight.data, grid, weight.dtype).dequantized().to(weight.dtype))
        for weight in linear_weights(model).values()
    )
