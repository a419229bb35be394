"""A closed-form edit of a few MLPs that pushes the forget rows' answers down and leaves retain rows as they are."""

from __future__ import annotations

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
from . import ROBUST
from .base import TrainingContext, TrainingPart
from .weights import refuse_adapters


@ROBUST.register(
    "ridge-edit",
    summary="Closed-form least squares: a few MLP outputs turn away from the forget answers; no training.",
    paper="this project, after the idea of arXiv 2608.05783 (GROM)",
    defaults={"layers": 3, "strength": 1.0, "retain_share": 1.0, "ridge": 0.01},
    needs=("retain",),
)
@dataclass
class RidgeEdit(TrainingPart):
    r"""Adds to the last map of a few MLPs what moves forget answers down and retain outputs least.

    With the inputs ``X_f`` ``[n_f, in]`` of an MLP's last linear map at the positions that predict forget labels, and
    ``X_r`` at those that predict retain labels, the edit of its weight ``W`` ``[out, in]`` is the solution

    .. math:: \Delta W = \arg\min \frac{1}{n_f} \lVert X_f \Delta W^T - Y \rVert^2
              + \frac{\mu}{n_r} \lVert X_r \Delta W^T \rVert^2 + \rho \lVert \Delta W \rVert^2,
              \qquad Y_t = -\eta \, h \, \hat u_{y_t}

    where :math:`\hat u_y` is the output head's row of the label, less the mean of all rows, at length 1, ``h`` the
    mean length of the residual stream after that layer and :math:`\eta` the ``strength`` divided by the number of
    layers. Labels that end a text are left alone. The layers are those whose MLP adds most to the forget answers, in
    the logit lens: the mean of :math:`\hat u_{y_t}` times what the MLP writes. They are edited from the first to the
    last, each on what the edited model then gives.

    No step is made and no gradient taken: use it with ``max_steps: 0``, or after training. ``delta-scaling``
    after it also finds the strength.

    This is in the style of GROM, which is known here only from a description: its weights, targets and
    choice of layers may differ, so do not compare numbers with the published ones.

    Cost: a forward pass over both sets for each layer that is edited and one over the forget set; for each such layer
    a system of equations of the size of the MLP's inner width, in float64.

    Args:
        layers: How many layers are edited, at least 1.
        strength: Length of the whole push as a share of the residual stream's, above 0.
        retain_share: Weight of the retain term, at least 0.
        ridge: Penalty on the edit, as a share of the mean squared input, above 0.

    Raises:
        RequestError: A number is out of range, the model has fewer layers, no such map or fused experts, or adapters.
    """

    layers: int = 3
    strength: float = 1.0
    retain_share: float = 1.0
    ridge: float = 0.01
    _edited: dict[int, float] = field(default_factory=dict, init=False, repr=False)

    uses_retain_rows: ClassVar[bool] = True
    acts_at_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise RequestError(f"ridge-edit: layers is {self.layers}; it must be at least 1")
        for key in ("strength", "ridge"):
            if not getattr(self, key) > 0:
                raise RequestError(f"ridge-edit: {key} is {getattr(self, key)}; it must be above 0")
        if not self.retain_share >= 0:
            raise RequestError(f"ridge-edit: retain_share is {self.retain_share}; it must be at least 0")

    def prepare(self, context: TrainingContext) -> None:
        """Refuses a model that cannot be edited, before it is trained."""
        refuse_adapters(context.model, "ridge-edit")
        found = len(last_maps(context.model))
        if self.layers > found:
            raise RequestError(f"ridge-edit: layers is {self.layers}, and the model has {found}: lower it")

    @torch.no_grad()
    def finish(self, context: TrainingContext) -> None:
        """Edits."""
        maps = last_maps(context.model)
        scores = lens_scores(context, [linear for _, linear in maps])
        chosen = sorted(sorted(range(len(maps)), key=lambda layer: -scores[layer])[: self.layers])
        for layer in chosen:
            forget = take_moments(context, context.forget_rows, *maps[layer])
            retain = take_moments(context, context.retain_rows, *maps[layer])
            wanted = -self.strength / self.layers * forget.residual * forget.cross
            edit = ridge_solution(forget.gram, wanted, retain.gram, self.retain_share, self.ridge)
            maps[layer][1].weight += edit.to(maps[layer][1].weight)
        self._edited = {layer: round(scores[layer], 4) for layer in chosen}

    def outcome(self) -> dict[str, Any]:
        """The layers that were edited, with the logit-lens score for which they were chosen."""
        return {"layers": {str(layer): score for layer, score in self._edited.items()}} if self._edited else {}


def ridge_solution(gram: Tensor, wanted: Tensor, kept: Tensor, kept_share: float, ridge: float) -> Tensor:
    """The edit of a linear map's weight that gives some inputs another output and others none.

    Args:
        gram: ``[in, in]``, mean of ``x x^T`` over the inputs to change.
        wanted: ``[in, out]``, mean of ``x y^T`` with ``y`` what is to be added to an input's output.
        kept: ``[in, in]``, mean of ``x x^T`` over the inputs whose outputs are to stay.
        kept_share: Weight of these relative to the others.
        ridge: Penalty, as a share of the mean square of all inputs, in the same weights.

    Returns:
        ``[out, in]``.
    """
    system = gram + kept_share * kept
    penalty = (ridge * system.diagonal().mean()).clamp(min=torch.finfo(system.dtype).tiny)
    return torch.linalg.solve(system + penalty * torch.eye(len(system)).to(system), wanted).T


@dataclass(frozen=True)
class Moments:
    """Statistics of an MLP's last map at the positions that predict labels of some rows, in float64.

    Attributes:
        gram: ``[in, in]``, mean of ``x x^T``.
        cross: ``[in, out]``, mean of ``x u^T`` with ``u`` the direction of the label.
        residual: Mean length of what the whole layer gives.
    """

    gram: Tensor
    cross: Tensor
    residual: float


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
                f"ridge-edit: layer {number} of {type(model).__name__} has {len(linear)} linear maps that end an "
                "MLP, and the edit needs exactly one per layer: use a method that trains"
            )
        found.append((layer, linear[0]))
    return found


def lens_scores(context: TrainingContext, maps: Sequence[nn.Linear]) -> list[float]:
    """How much each MLP adds to the forget answers: the mean over their labels of its output along the label."""
    totals, count = [0.0] * len(maps), 0
    for passed, directions in _labelled(context, context.forget_rows, maps):
        for place, (_, output) in enumerate(passed):
            totals[place] += float((output.double() * directions).sum())
        count += len(directions)
    return [total / max(count, 1) for total in totals]


def take_moments(context: TrainingContext, rows: Sequence[EncodedRow], layer: nn.Module, linear: nn.Linear) -> Moments:
    """See :class:`Moments`; labels that end a text are left out."""
    gram: Any = 0.0
    cross: Any = 0.0
    residual, count = 0.0, 0
    for passed, directions in _labelled(context, rows, [linear, layer]):
        inputs = passed[0][0].double()
        gram, cross = gram + inputs.T @ inputs, cross + inputs.T @ directions
        residual += float(torch.linalg.vector_norm(passed[1][1].double(), dim=-1).sum())
        count += len(inputs)
    return Moments(gram / max(count, 1), cross / max(count, 1), residual / max(count, 1))


Passed = list[tuple[Tensor, Tensor]]
"""Input and output of each watched module, ``[n, width]``."""


def _labelled(
    context: TrainingContext, rows: Sequence[EncodedRow], modules: Sequence[nn.Module]
) -> Iterator[tuple[Passed, Tensor]]:
    """For every micro-batch, the modules' inputs and outputs at its labels, and label directions ``[n, width]``."""
    model: Any = context.model
    head = model.get_output_embeddings().weight
    mean = head.double().mean(dim=0)
    ends = torch.tensor(_end_tokens(model), device=head.device)
    for batch in context.batches(rows):
        with _watched(modules, label_positions(batch["labels"])) as passed:
            labels = context.score(batch).labels
        kept = ~torch.isin(labels, ends)
        directions = torch.nn.functional.normalize(head[labels[kept]].double() - mean, dim=-1)
        yield [(before[kept], after[kept]) for before, after in passed()], directions


def _end_tokens(model: Any) -> list[int]:
    ends = model.config.eos_token_id
    return list(ends) if isinstance(ends, (list, tuple)) else [-1 if ends is None else ends]


@contextmanager
def _watched(modules: Sequence[nn.Module], positions: Tensor) -> Iterator[Callable[[], Passed]]:
    taken: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(place: int) -> Any:
        def take(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            before = inputs[0] if inputs else after  # a layer may be given its input by name; only a map's is used
            taken[place] = (before[positions], after[positions])

        return take

    handles = [module.register_forward_hook(watch(place)) for place, module in enumerate(modules)]
    try:
        yield lambda: [taken[place] for place in range(len(modules))]
    finally:
        for handle in handles:
            handle.remove()
