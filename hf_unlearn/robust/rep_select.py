"""RepSelect: one forget gradient, without the directions it shares with everything else, applied again and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import RequestError
from . import ROBUST
from .base import Gradients, StepResult, TermName, TermWeights, TrainingContext, TrainingPart
from .weights import load_tensors, save_tensors

UPDATE_FILE = "rep_select.safetensors"
STOPPED_FILE = "rep_select_stopped.safetensors"


@ROBUST.register(
    "rep-select",
    summary="One forget gradient without its leading directions is applied until the retain KL reaches a budget.",
    paper="arXiv 2606.17168",
    defaults={
        "components": 512,
        "elicit_rate": 0.01,
        "elicit_rank": 8,
        "kl_budget": 0.01,
        "modules": "mlp",
        "seed": 0,
    },
    needs=("retain",),
)
@dataclass
class RepSelect(TrainingPart):
    r"""Replaces the forget term's gradient by one that was filtered before the first step.

    1. *Elicit*: low-rank adapters learn the forget rows for one pass of plain SGD, so that the model's knowledge is
       prominent.
    2. With the adapters on, the forget loss's gradient ``G`` of each chosen matrix is taken over the whole forget set,
       and the adapters are thrown away.
    3. Leading directions of ``G``, which it shares with much else that the model does, are shrunk on the input side
       and on the output side alike:

    .. math::
        G = \sum_i \sigma_i u_i v_i^\top, \qquad
        G' = G - \sum_{i \le k} \Big( \sigma_i - \frac{\sigma_k^2}{\sigma_i} \Big) u_i v_i^\top

    4. Every step subtracts ``learning_rate`` times ``G'``, until the retain KL that the step saw is above the budget;
       then only the retain term continues (with ``retain_weight: 0`` nothing moves any more). KL is that of the step's
       rows before its update, so the budget is exceeded by up to two updates.

    The paper uses gradient ascent (``loss_type: ga``), no retain training (``retain_weight: 0``), and a learning rate
    of 0.05. Its code sums gradients of batch means over batches; here ``G`` belongs to the mean over the whole set, so
    the same step needs a rate larger by the number of batches. Directions with a singular value below
    rounding are not counted: dividing by them would leave nothing of ``G``.

    Cost: before the first step two forward and backward passes over the forget set and one decomposition per chosen
    matrix; each step costs the retain term alone. One copy of the chosen matrices in memory and in the output folder.

    Args:
        components: ``k``, at most the rank.
        elicit_rate: Learning rate of the adapters; 0 skips step 1.
        elicit_rank: Rank of the adapters.
        kl_budget: Nats per token; 0 for no end. The paper measures it on WikiText, here it is the retain term's.
        modules: Linear layers whose name has this in it are changed.
        seed: Of the adapters and of the approximate decomposition.

    Raises:
        RequestError: A value is out of range.

    Source: arXiv 2606.17168, and the simplified trainer released with it.
    """

    changes_gradients: ClassVar[bool] = True

    components: int = 512
    elicit_rate: float = 0.01
    elicit_rank: int = 8
    kl_budget: float = 0.01
    modules: str = "mlp"
    seed: int = 0
    _update: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _stopped: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("components", "elicit_rank"):
            if getattr(self, name) < 1:
                raise RequestError(f"rep-select: {name} is {getattr(self, name)}, it must be at least 1")
        for name in ("elicit_rate", "kl_budget"):
            if getattr(self, name) < 0:
                raise RequestError(f"rep-select: {name} is {getattr(self, name)}, it must be 0 or more")

    def check(self, config: Any) -> None:
        """Refuses settings that would undo the filter, and a budget that nothing measures."""
        optimizer = getattr(config.optim, "value", config.optim)
        if optimizer != "sgd":
            raise RequestError(
                f"rep-select: optim is {optimizer}, which gives small filtered gradients the same step as large ones:"
                " set optim: sgd"
            )
        if self.kl_budget and config.retain_loss_type != "kl":
            raise RequestError(
                f"rep-select: nothing measures kl_budget with retain_loss_type {config.retain_loss_type}: use kl (with"
                " retain_weight: 0 it only measures), or set kl_budget: 0"
            )
        if config.forget_weight != 1.0:
            raise RequestError(
                "rep-select: forget_weight has no effect, because the gradient is its own: leave it out"
            )

    def prepare(self, context: TrainingContext) -> None:
        """Computes the update at the original weights, or reads that of the resumed run."""
        path = context.output_dir / UPDATE_FILE
        layers = chosen_layers(context.model, self.modules)
        if context.resuming:
            self._update = load_tensors(path, "rep-select")
            if set(self._update) != set(layers):
                raise RequestError(f"{path} belongs to another model: start this training in another folder")
            return
        with elicited(context, layers, self.elicit_rate, self.elicit_rank, self.seed):
            gradients = gradients_of(layers, context.forget_loss_summands)
        self._update = {name: collapsed(gradient, self.components, self.seed) for name, gradient in gradients.items()}
        if context.writes:
            save_tensors(path, self._update)

    def term_weights(self, step: int) -> TermWeights:
        """The forget rows are not used again."""
        return TermWeights(forget=0.0)

    def change_gradients(self, gradients: dict[TermName, Gradients]) -> dict[TermName, Gradients]:
        """Puts the update in place of the forget gradient."""
        if self._stopped:
            return gradients
        return {**gradients, "forget": dict(self._update)}

    def after_step(self, result: StepResult) -> None:
        """Stops for good once the retain KL is above the budget."""
        if self.kl_budget and not self._stopped:
            self._stopped = result.means().get("kl/retain", 0.0) > self.kl_budget

    def save_state(self, folder: Path) -> None:
        """Whether the budget was used up."""
        save_tensors(folder / STOPPED_FILE, {"stopped": torch.tensor(self._stopped)})

    def load_state(self, folder: Path) -> None:
        """Whether it was."""
        self._stopped = bool(load_tensors(folder / STOPPED_FILE, "rep-select")["stopped"])


def chosen_layers(model: nn.Module, modules: str) -> dict[str, nn.Linear]:
    """Trained linear layers with ``modules`` in their name, by the name of their weight.

    Raises:
        RequestError: There is none, or the model has adapters.
    """
    if hasattr(model, "peft_config"):
        raise RequestError("rep-select: it changes whole matrices, which adapters do not: train without adapters")
    layers = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and modules in name and module.weight.requires_grad
    }
    if not layers:
        raise RequestError(
            f"rep-select: no linear layer that is trained has {modules!r} in its name: set modules to a part of the"
            " names of the model's own layers"
        )
    return layers


def gradients_of(layers: dict[str, nn.Linear], summands: Callable[[], Iterator[Tensor]]) -> Gradients:
    """Gradient of a loss, given in summands, with respect to these layers' weights alone; none is left behind."""
    weights = {name: layer.weight for name, layer in layers.items()}
    total: Gradients = {}
    for summand in summands():
        found = torch.autograd.grad(summand, list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), found, strict=True):
            gradient = torch.zeros_like(weight) if gradient is None else gradient
            total[name] = total[name] + gradient if name in total else gradient
    return total


@torch.no_grad()
def collapsed(gradient: Tensor, components: int, seed: int) -> Tensor:
    """A gradient whose leading singular values ``s`` became ``s_min^2 / s``, ``s_min`` the smallest of them.

    That is what dividing by ``s / s_min`` on the input side and on the output side comes to.

    Args:
        gradient: ``[out, in]``.
        components: How many singular values are shrunk, at most the numerical rank.
        seed: Of the approximate decomposition, which is used where ``components`` is far below the rank.

    Returns:
        ``[out, in]`` in the type of ``gradient``.
    """
    wide = gradient.float()
    left, values, right = leading_directions(wide, components, seed)
    smallest = torch.finfo(values.dtype).eps * max(wide.shape)
    kept = int((values > smallest * values.max()).sum()) if values.numel() and values.max() > 0 else 0
    if kept == 0:
        return gradient
    left, values, right = left[:, :kept], values[:kept], right[:, :kept]
    taken = values - values[-1] ** 2 / values
    return (wide - (left * taken) @ right.mT).to(gradient.dtype)


def leading_directions(matrix: Tensor, components: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """``(U, s, V)`` of the largest singular values, exact unless the matrix is much larger than ``components``."""
    count = min(components, *matrix.shape)
    if min(matrix.shape) <= 4 * count:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :count], values[:count], right[:count].mT
    devices = [matrix.device] if matrix.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        left, values, right = torch.svd_lowrank(matrix, q=count)
    return left, values, right


class LowRank:
    """``y + B A x`` on the output of a linear layer; ``B`` is zero at first, so that nothing changes.

    Args:
        layer: The layer.
        rank: Rows of ``A``.
        generator: Draws ``A``, uniform as a linear layer's own weights are; on the CPU.
    """

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        bound = 1 / math.sqrt(layer.in_features)
        first = (torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) * bound
        self.down = first.to(layer.weight).requires_grad_(True)
        self.up = torch.zeros(layer.out_features, rank).to(layer.weight).requires_grad_(True)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """A forward hook."""
        return output + (inputs[0] @ self.down.mT) @ self.up.mT

    @torch.no_grad()
    def step(self, loss_gradients: tuple[Tensor | None, ...], rate: float) -> None:
        """One step of plain gradient descent."""
        for weight, gradient in zip((self.down, self.up), loss_gradients, strict=True):
            if gradient is not None:
                weight.sub_(rate * gradient)


@contextmanager
def elicited(
    context: TrainingContext, layers: Mapping[str, nn.Linear], rate: float, rank: int, seed: int
) -> Iterator[None]:
    """The model with low-rank additions that learned the forget rows in one pass of SGD, within the block.

    Args:
        context: The run, before its first step.
        layers: Which layers get an addition.
        rate: Learning rate; 0 for no additions at all.
        rank: Of the additions.
        seed: Of their initial values.
    """
    if rate == 0:
        yield
        return
    generator = torch.Generator().manual_seed(seed)
    additions = [LowRank(layer, rank, generator) for layer in layers.values()]
    hooks = zip(layers.values(), additions, strict=True)
    handles = [layer.register_forward_hook(addition) for layer, addition in hooks]
    weights = [weight for addition in additions for weight in (addition.down, addition.up)]
    try:
        for batch in context.batches(context.forget_rows):
            loss = -context.score(batch).logps.mean()
            found = torch.autograd.grad(loss, weights, allow_unused=True)
            for number, addition in enumerate(additions):
                addition.step((found[2 * number], found[2 * number + 1]), rate)
        yield
    finally:
        for handle in handles:
            handle.remove()
