"""Precision views: forgetting that must hold on several quantization grids during training."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import RequestError
from ..quantization.grids import Grid, find_grid, on_grid
from . import ROBUST
from .base import StepContext, TermName, TrainingContext, TrainingPart, View
from .deployed import DeployedLayer, changed_weights, deployed_layers

PLAIN, NOISE = "plain", "noise-"
_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@ROBUST.register(
    "precision-views",
    summary="The forget loss uses quantized and noisy weights, the retain loss compares with the quantized target.",
    paper="this project (see docs/precision-views.md); straight-through estimate: arXiv 1308.3432",
    defaults={
        "grids": ("int8-channel", "int4-g128", "int4-g32", "nf4"),
        "noise": ("int4-g128",),
        "plain": True,
        "per_step": 1,
        "retain": True,
        "hold_out": (),
        "dtype": "float32",
        "seed": 0,
    },
)
@dataclass
class PrecisionViews(TrainingPart):
    r"""Draws views of the weights in each step and takes the gradients there.

    .. math::
        L = \frac{1}{|K|} \sum_{k \in K} L_{forget}(Q_k(\theta)) +
        \tfrac12 \big[ L_{retain}(\theta; \theta_0) + L_{retain}(Q_g(\theta); Q_g(\theta_0)) \big], \qquad
        \frac{\partial Q(\theta)}{\partial \theta} := 1

    ``K`` is drawn from the grids, noise as wide as a grid's bins, and the weights as they are. The gradient at the
    view's weights is given to the trained weights (straight-through); scales are recomputed each time and take no
    gradient. A retain loss that compares with the target compares a grid's view with the target *on the same grid*, so
    nothing is spent on repairing ordinary quantization loss; with a retain loss that does not (``nll``), and in
    steps that drew no grid, the retain term sees the weights as they are.

    Views change what weight-only quantizers change, all linear layers but the output head, LoRA merged into them. A
    recipe that judges with a format whose grid was trained on is an easy exam: keep one back with ``hold_out``.

    Cost: ``per_step`` forward and backward passes of the forget rows, one or two of the retain rows, the terms
    computed separately; one transient copy of the linear layers; before the first step one forward pass over the
    retain set per grid, and the cached hidden states of each.

    Args:
        grids: Names of :func:`~hf_unlearn.quantization.grids.grids` to round to.
        noise: Grids whose noise is added: each weight moves within half a bin to either side, uniformly.
        plain: Whether the weights as they are can be drawn too.
        per_step: Views drawn in a step, without repetition.
        retain: Whether the retain term is seen on the drawn grids too.
        hold_out: Grids that must never be trained on; naming one elsewhere is refused.
        dtype: What the weights will be saved in before they are quantized; scales are stored in it.
        seed: Of the draws, which follow from it and the step.

    Raises:
        RequestError: A name is unknown or held out, or nothing is left to draw.

    Source: this project. Related work: a straight-through 4-bit forget term in DurableUn (arXiv
    2605.02196, with a simulator that does not match real quantizers), SAM in arXiv 2502.05374.
    """

    makes_views: ClassVar[bool] = True

    grids: Sequence[str] = ("int8-channel", "int4-g128", "int4-g32", "nf4")
    noise: Sequence[str] = ("int4-g128",)
    plain: bool = True
    per_step: int = 1
    retain: bool = True
    hold_out: Sequence[str] = ()
    dtype: str = "float32"
    seed: int = 0
    _layers: list[DeployedLayer] = field(default_factory=list, init=False, repr=False)
    _drawn: list[str] = field(default_factory=list, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)
    _compares: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("grids", "noise", "hold_out"):
            names = getattr(self, key)
            if isinstance(names, str) or not isinstance(names, Sequence):
                raise RequestError(f"precision-views: {key} is {names!r}, it must be a list of grids, as in [nf4]")
            for name in names:
                find_grid(name)
        held = sorted({*self.grids, *self.noise} & set(self.hold_out))
        if held:
            raise RequestError(
                f"precision-views: {held[0]} is both held out and trained on: remove it from hold_out, or out of"
                " grids and noise"
            )
        if self.dtype not in _DTYPES:
            raise RequestError(f"precision-views: dtype is {self.dtype!r}, it must be one of {', '.join(_DTYPES)}")
        if not 1 <= self.per_step <= len(self.pool()):
            raise RequestError(
                f"precision-views: per_step is {self.per_step}, it must be from 1 to {len(self.pool())}, the number of"
                " views there are to draw from"
            )

    @property
    def passes(self) -> int:
        """One for each view."""
        return self.per_step

    def pool(self) -> list[str]:
        """Names of all views that a step can draw."""
        noise = [NOISE + name for name in dict.fromkeys(self.noise)]
        return [*([PLAIN] if self.plain else []), *dict.fromkeys(self.grids), *noise]

    def prepare(self, context: TrainingContext) -> None:
        """Checks that every layer divides into whole groups of every grid."""
        for layer in deployed_layers(context.model, "precision-views"):
            for grid in (find_grid(name) for name in (*self.grids, *self.noise)):
                if not grid.fits(layer.parameter.shape[-1]):
                    raise RequestError(
                        f"precision-views: {grid.name} needs input sizes in multiples of {grid.group_size}, but"
                        f" {layer.name} has {layer.parameter.shape[-1]}: use a grid with a smaller group"
                    )

    def reference_views(self, model: nn.Module) -> Sequence[View]:
        """The target on every grid that is trained on."""
        self._compares = self.retain
        if not self.retain:
            return ()
        layers = deployed_layers(model, "precision-views")
        return [View(name, partial(self._on_grid, layers, name)) for name in dict.fromkeys(self.grids)]

    def before_step(self, context: StepContext) -> None:
        """Draws the step's views."""
        self._layers = deployed_layers(context.model, "precision-views")
        self._step = context.step
        self._drawn = random.Random(f"precision-views-{self.seed}-{context.step}").sample(self.pool(), self.per_step)

    def views(self, term: TermName) -> Sequence[View]:
        """The drawn views; for the retain term the weights as they are and, with equal weight, the grids."""
        if term == "forget":
            return [View(name, self._enter(name)) for name in self._drawn]
        drawn = [name for name in self._drawn if name in self.grids] if self._compares else []
        on_grids = [View(name, self._enter(name), 1 / len(drawn)) for name in drawn]
        return [View(PLAIN, self._enter(PLAIN)), *on_grids] if drawn else ()

    def _enter(self, name: str) -> Any:
        if name == PLAIN:
            return partial(changed_weights, [], _unchanged)
        if name.startswith(NOISE):
            return partial(self._with_noise, name[len(NOISE) :])
        return partial(self._on_grid, self._layers, name)

    def _on_grid(self, layers: list[DeployedLayer], name: str) -> AbstractContextManager[None]:
        grid, dtype = find_grid(name), _DTYPES[self.dtype]
        return changed_weights(layers, lambda _, weight: on_grid(weight.to(dtype), grid, dtype).dequantized())

    def _with_noise(self, name: str) -> AbstractContextManager[None]:
        grid, dtype, draw = find_grid(name), _DTYPES[self.dtype], f"{self.seed}-{self._step}"
        return changed_weights(
            self._layers, lambda layer, weight: uniform_noise(weight.to(dtype), grid, f"{layer}-{draw}")
        )


def _unchanged(name: str, weight: Tensor) -> Tensor:
    return weight


def uniform_noise(weight: Tensor, grid: Grid, draw: str) -> Tensor:
    """A weight that moved within half a bin of a grid to either side: ``w + U(-1/2, 1/2) * step``.

    Args:
        weight: ``[out, in]``, in the type it will be saved in.
        grid: Whose bins are meant; each weight's own, if they differ in width.
        draw: Names the draw.

    Returns:
        ``[out, in]`` in float32.
    """
    placed = on_grid(weight, grid, weight.dtype)
    seed = int.from_bytes(hashlib.sha256(draw.encode()).digest()[:7], "big")
    generator = torch.Generator(weight.device).manual_seed(seed)
    share = torch.rand(placed.weights.shape, generator=generator, device=weight.device) - 0.5
    return placed.restore(placed.weights + share * placed.steps())
