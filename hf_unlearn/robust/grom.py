"""GROM: a closed-form edit of a few MLPs that forgets the forget rows and leaves retain rows as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data.encoding import EncodedRow
from ..errors import RequestError
from ..losses.base import label_positions
from ..models.decoder import MLP_OUTPUTS, decoder_layers
from ..registry import suggest
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .weights import refuse_adapters

logger = logging.getLogger(__name__)

TARGETS = ("suppress", "corrupt")


@ROBUST.register(
    "grom",
    summary="One closed-form edit of a band of MLPs moves forget answers down and keeps retain outputs; no training.",
    paper="arXiv 2608.05783",
    defaults={
        "target": "suppress",
        "strength": 65.0,
        "layers": 5,
        "first": -1,
        "retain_weight": 100.0,
        "ridge": 0.03,
        "seed": 0,
    },
    needs=("retain",),
)
@dataclass
class GROM(TrainingPart):
    r"""Gradient-free one-shot unlearning: ridge regression on the last map of the MLPs in a band of layers.

    With the inputs :math:`K_f` ``[in, s]`` of an MLP's last linear map at the positions that predict forget labels,
    and :math:`K_r` ``[in, r]`` at those that predict retain labels, the map's weight ``W`` ``[out, in]`` becomes
    ``W + P`` with

    .. math:: P = \frac{1}{s} D K_f^T A^{-1}, \qquad
              A = \frac{w_r}{r} K_r K_r^T + \frac{1}{s} K_f K_f^T + \mu I, \qquad
              \mu = \rho \cdot \operatorname{mean}(\operatorname{diag}(A - \mu I))

    which minimizes :math:`\frac{w_r}{r} \lVert P K_r \rVert^2 + \frac{1}{s} \lVert P K_f - D \rVert^2 + \mu
    \lVert P \rVert^2`. What is added to the output at forget position ``j`` should be

    - ``suppress``: :math:`D_{:,j} = -\beta \, \alpha(y_j) \, \hat u(y_j)`, with :math:`\hat u(y)` the output head's
      row of the label at length 1, and the specificity :math:`\alpha(y) = \operatorname{clamp}(1 - p_r(y) / p_f(y), 0,
      1)` from the label's shares among all retain and forget labels: tokens that are as common in what is kept are
      left alone;
    - ``corrupt``: :math:`D_{:,j} = \beta \, u`, the same random direction of length 1 at every position.

    The band is ``layers`` layers in a row, edited from the first to the last, each on what the edited model gives.
    Without ``first`` it is the band whose MLPs write most of the forget answers and least of the retain answers, in
    the logit lens: the greatest mean of :math:`\frac{1}{s} \sum_j \alpha(y_j) \, h_j \cdot u(y_j) - \frac{1}{r} \sum_j
    h_j \cdot u(y_j)`, with ``h`` what the MLP adds and ``u(y)`` the head's row.

    No step is made and no gradient is taken: use it with ``max_steps: 0``, or after training. ``strength`` is
    absolute, so its effect depends on the length of the model's residual stream. Try several.

    Differences from the released code: all positions count (there at most 20,000 forget and 40,000 retain ones).
    Labels that end an answer count in :math:`\alpha` on both sides (there they are not retain tokens, so that on
    question and answer rows ends are pushed down too). Whether its lens takes the final norm into account could not
    be read; here it does not. Its edit of the output head, used for single facts, is not here.

    Cost: a forward pass over both sets for each layer of the band, and two for the choice of the band; for each layer
    a system of equations of the size of the MLP's inner width, in float64.

    Args:
        target: ``suppress`` for answers, ``corrupt`` for knowledge that is asked for in other words.
        strength: :math:`\beta`, above 0. Published: 65 (TOFU, 1B), 1000 (TOFU, 7B), 350 and 370 (MUSE, 7B), 45 (WMDP,
            8B, ``corrupt``).
        layers: Width of the band, at least 1. Published: 5 of 16, 6 of 32, 4 of 32, and 1 with ``corrupt``.
        first: The band's first layer, from 0; -1 to choose it. Published bands end at the last layer; with ``corrupt``
            it is layer 8 of 32.
        retain_weight: :math:`w_r`, at least 0. Published: 100, 300, 10 and 80, 1000, in the order above.
        ridge: :math:`\rho`, above 0; 0.03 in all published settings.
        seed: Of the direction of ``corrupt``.

    Raises:
        RequestError: A value is out of range, the model has fewer layers, no such map or fused experts, or adapters.

    Source: Batorski, Spurek and Swoboda, *GROM: Gradient-Free Rapid One-Shot Machine Unlearning* (arXiv 2608.05783,
    theorem 1) and its code, read in a port of it and in a program that calls it; the paper's text could not be read.
    """

    target: str = "suppress"
    strength: float = 65.0
    layers: int = 5
    first: int = -1
    retain_weight: float = 100.0
    ridge: float = 0.03
    seed: int = 0
    _outcome: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    uses_retain_rows: ClassVar[bool] = True
    acts_at_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise RequestError(f"grom: target is {self.target!r}: {suggest(str(self.target), list(TARGETS))}")
        if self.layers < 1:
            raise RequestError(f"grom: layers is {self.layers}; it must be at least 1")
        if self.first < -1:
            raise RequestError(f"grom: first is {self.first}; it must be a layer from 0, or -1 to choose it")
        for key in ("strength", "ridge"):
            if not getattr(self, key) > 0:
                raise RequestError(f"grom: {key} is {getattr(self, key)}; it must be above 0")
        if not self.retain_weight >= 0:
            raise RequestError(f"grom: retain_weight is {self.retain_weight}; it must be at least 0")

    def prepare(self, context: TrainingContext) -> None:
        """Refuses a model that cannot be edited, before it is trained."""
        refuse_adapters(context.model, "grom")
        found, last = len(last_maps(context.model)), max(self.first, 0) + self.layers
        if last > found:
            raise RequestError(
                f"grom: the band needs {last} layers, and the model has {found}: lower layers"
                + (" or first" if self.first > 0 else "")
            )

    @torch.no_grad()
    def finish(self, context: TrainingContext) -> None:
        """Edits."""
        maps = [linear for _, linear in last_maps(context.model)]
        specificity = specificities(context)
        scores, first = [], self.first
        if first < 0:
            scores = lens_scores(context, maps, specificity)
            first = best_band(scores, self.layers)
        for linear in maps[first : first + self.layers]:
            forget = take_moments(context, context.forget_rows, linear, specificity)
            retain = take_moments(context, context.retain_rows, linear, specificity)
            edit = ridge_solution(forget.gram, self._wanted(forget), retain.gram, self.retain_weight, self.ridge)
            linear.weight += edit.to(linear.weight)
        self._outcome = {
            "layers": list(range(first, first + self.layers)),
            "specificity": round(mean_over_labels(context, specificity), 4),
            **({"lens": [round(score, 4) for score in scores]} if scores else {}),
        }
        if self.target == "suppress" and not self._outcome["specificity"]:
            logger.warning("grom: every forget label is as common in the retain rows, so nothing was edited")

    def _wanted(self, forget: Moments) -> Tensor:
        if self.target == "suppress":
            return -self.strength * forget.cross
        draw = torch.Generator().manual_seed(self.seed)
        width = forget.cross.shape[1]
        direction = torch.randn(width, generator=draw, dtype=torch.float64).to(forget.mean.device)
        return self.strength * torch.outer(forget.mean, direction / direction.norm())

    def outcome(self) -> dict[str, Any]:
        """The layers that were edited, the mean specificity of the forget labels, and every layer's lens score."""
        return self._outcome


def ridge_solution(gram: Tensor, wanted: Tensor, kept: Tensor, kept_weight: float, ridge: float) -> Tensor:
    """The edit of a linear map's weight that gives some inputs another output and others none.

    Args:
        gram: ``[in, in]``, mean of ``x x^T`` over the inputs to change.
        wanted: ``[in, out]``, mean of ``x d^T`` with ``d`` what is to be added to an input's output.
        kept: ``[in, in]``, mean of ``x x^T`` over the inputs whose outputs are to stay.
        kept_weight: Weight of these relative to the others.
        ridge: Penalty, as a share of the mean square of all inputs, in the same weights.

    Returns:
        ``[out, in]``.
    """
    system = gram + kept_weight * kept
    penalty = (ridge * system.diagonal().mean()).clamp(min=torch.finfo(system.dtype).tiny)
    return torch.linalg.solve(system + penalty * torch.eye(len(system)).to(system), wanted).T


def best_band(scores: Sequence[float], width: int) -> int:
    """First of ``width`` neighbouring layers with the greatest mean score."""
    return max(range(len(scores) - width + 1), key=lambda first: sum(scores[first : first + width]))


# ---- What is taken from the rows ----


@dataclass(frozen=True)
class Moments:
    """Statistics of an MLP's last map at the positions that predict labels of some rows, in float64.

    Attributes:
        gram: ``[in, in]``, mean of ``x x^T``.
        cross: ``[in, out]``, mean of ``x (alpha u)^T``, ``u`` the direction of the label, ``alpha`` its specificity.
        mean: ``[in]``, mean of ``x``.
    """

    gram: Tensor
    cross: Tensor
    mean: Tensor


def specificities(context: TrainingContext) -> Tensor:
    """``[vocabulary]`` in float64, from 0 for tokens that are as common among retain labels to 1 for those unseen."""
    model: Any = context.model
    vocabulary = model.get_output_embeddings().weight.shape[0]
    forget, retain = (
        torch.bincount(torch.tensor(_labels(rows), dtype=torch.int64), minlength=vocabulary).double()
        for rows in (context.forget_rows, context.retain_rows)
    )
    share, own = retain / retain.sum().clamp(min=1), forget / forget.sum().clamp(min=1)
    return (1 - share / own.clamp(min=torch.finfo(own.dtype).tiny)).clamp(0, 1)


def _labels(rows: Sequence[EncodedRow]) -> list[int]:
    return [token for row in rows for token in (row.labels or row.input_ids[row.n_prompt :])]


def mean_over_labels(context: TrainingContext, specificity: Tensor) -> float:
    """Mean specificity of the forget labels."""
    labels = _labels(context.forget_rows)
    return float(specificity[torch.tensor(labels)].mean()) if labels else 0.0


def last_maps(model: nn.Module) -> list[tuple[nn.Module, nn.Linear]]:
    """Every decoder layer with the last linear map of its MLP, in order.

    Raises:
        RequestError: A layer has none, or several (experts).
    """
    found = []
    for number, layer in enumerate(decoder_layers(model)):
        linear = [
            module
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and name.rpartition(".")[2] in MLP_OUTPUTS and "att" not in name
        ]
        if len(linear) != 1:
            raise RequestError(
                f"grom: layer {number} of {type(model).__name__} has {len(linear)} linear maps that end an "
                "MLP, and the edit needs exactly one per layer: use a method that trains"
            )
        found.append((layer, linear[0]))
    return found


def lens_scores(context: TrainingContext, maps: Sequence[nn.Linear], specificity: Tensor) -> list[float]:
    """How much more each MLP writes of the forget answers than of the retain answers, in the logit lens."""
    forget = _written(context, context.forget_rows, maps, specificity)
    retain = _written(context, context.retain_rows, maps, torch.ones_like(specificity))
    return [of_forget - of_retain for of_forget, of_retain in zip(forget, retain, strict=True)]


def _written(
    context: TrainingContext, rows: Sequence[EncodedRow], maps: Sequence[nn.Linear], weights: Tensor
) -> list[float]:
    head = _head(context)
    totals, count = [0.0] * len(maps), 0
    for passed, labels in _at_labels(context, rows, maps):
        pointing = weights.to(labels.device)[labels, None] * head[labels].double()
        for place, (_, output) in enumerate(passed):
            totals[place] += float((output.double() * pointing).sum())
        count += len(labels)
    return [total / max(count, 1) for total in totals]


def take_moments(
    context: TrainingContext, rows: Sequence[EncodedRow], linear: nn.Linear, specificity: Tensor
) -> Moments:
    """See :class:`Moments`."""
    head = _head(context)
    gram: Any = 0.0
    cross: Any = 0.0
    mean: Any = 0.0
    count = 0
    for passed, labels in _at_labels(context, rows, [linear]):
        inputs = passed[0][0].double()
        directions = torch.nn.functional.normalize(head[labels].double(), dim=-1)
        directions *= specificity.to(labels.device)[labels, None]
        gram, cross, mean = gram + inputs.T @ inputs, cross + inputs.T @ directions, mean + inputs.sum(0)
        count += len(inputs)
    return Moments(gram / max(count, 1), cross / max(count, 1), mean / max(count, 1))


def _head(context: TrainingContext) -> Tensor:
    model: Any = context.model
    weight: Tensor = model.get_output_embeddings().weight
    return weight


Passed = list[tuple[Tensor, Tensor]]
"""Input and output of each watched module, ``[n, width]``."""


def _at_labels(
    context: TrainingContext, rows: Sequence[EncodedRow], modules: Sequence[nn.Module]
) -> Iterator[tuple[Passed, Tensor]]:
    """For every micro-batch, the modules' inputs and outputs where they predict labels, and the labels ``[n]``."""
    for batch in context.batches(rows):
        with _watched(modules, label_positions(batch["labels"])) as passed:
            labels = context.score(batch).labels
        yield passed(), labels


@contextmanager
def _watched(modules: Sequence[nn.Module], positions: Tensor) -> Iterator[Callable[[], Passed]]:
    taken: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(place: int) -> Any:
        def take(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            taken[place] = (inputs[0][positions], output[positions])

        return take

    handles = [module.register_forward_hook(watch(place)) for place, module in enumerate(modules)]
    try:
        yield lambda: [taken[place] for place in range(len(modules))]
    finally:
        for handle in handles:
            handle.remove()
