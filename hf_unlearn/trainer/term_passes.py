"""Separate forward and backward passes of the two terms, for parts that use weights or gradients of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn

from ..data.pairing import PaddedRows
from ..errors import RequestError
from ..models.sharding import taken_over
from ..robust.base import TERMS, Gradients, StepValue, TermName, TrainingPart, View
from ..robust.weights import trained_parameters
from .config import UnlearnConfig
from .objective import Objective

if TYPE_CHECKING:
    from accelerate import Accelerator

PLAIN = View("plain", nullcontext)
"""The weights as they are."""


def needs_separate_passes(part: TrainingPart) -> bool:
    """Whether the terms cannot share a forward and a backward pass."""
    return part.makes_views or part.changes_gradients


def check_parts(parts: Sequence[TrainingPart], accelerator: Accelerator, args: UnlearnConfig) -> None:
    """Refuse parts that do not work with this kind of training.

    Raises:
        RequestError: Weights or gradients are sharded, or scaled for fp16.
    """
    for part in parts:
        name = type(part).__name__
        apart = needs_separate_passes(part)
        if (part.needs_whole_weights or apart) and taken_over(accelerator):
            kind = accelerator.distributed_type.value
            raise RequestError(f"robust: {name} needs whole weights, and {kind} shards them: use DDP")
        if part.uses_trained_weights and accelerator.distributed_type is DistributedType.DEEPSPEED:
            _check_engine(name, accelerator, args)
        if apart and args.fp16:
            raise RequestError(f"robust: {name} changes gradients, which fp16 scales: use bf16 or float32")


def _check_engine(name: str, accelerator: Accelerator, args: UnlearnConfig) -> None:
    """Refuse what DeepSpeed keeps elsewhere, or does in a step beyond what is followed.

    Raises:
        RequestError: Names the setting of DeepSpeed.
    """
    plugin: Any = accelerator.state.deepspeed_plugin
    zero = plugin.deepspeed_config.get("zero_optimization", {})
    optimizer = plugin.deepspeed_config.get("optimizer", {})
    refused = {
        f"ZeRO stage {plugin.zero_stage}": plugin.zero_stage not in (2, 3),
        "fp16, whose steps may be skipped": args.fp16,
        "an optimizer on NVMe": (zero.get("offload_optimizer") or {}).get("device") == "nvme",
        "ZenFlow": bool(zero.get("zenflow")),
        "Muon": str(optimizer.get("type", "")).lower() == "muon",
    }
    for what in (each for each, found in refused.items() if found):
        raise RequestError(
            f"robust: {name} changes and steps the weights that DeepSpeed holds, which is not possible with {what}: "
            "use ZeRO-2 or ZeRO-3 in bf16 or float32, the optimizer's state on the device or in the CPU's memory"
        )


class TermPasses:
    """Runs the terms of a micro-batch one after the other, each under all of its views.

    Gradients of several processes are averaged here, once a step: the model is called without its wrapper.

    Args:
        objective: Whose terms these are.
        computing: Entered for each forward pass: the precision that is trained with.

    Attributes:
        needed: Whether some part needs the terms apart.
    """

    def __init__(self, objective: Objective, computing: Callable[[], AbstractContextManager[Any]]) -> None:
        self._objective, self._computing = objective, computing
        self._accelerator = objective.accelerator
        self.needed = any(needs_separate_passes(part) for part in objective.parts)
        self._keeps_apart = any(part.changes_gradients for part in objective.parts)
        self._kept: dict[TermName, Gradients] = {}

    def run(self, inputs: dict[str, PaddedRows], counts: Tensor) -> Tensor:
        """All passes of a micro-batch; after the last micro-batch of a step, the gradients are in place.

        Args:
            inputs: The micro-batch, on its device.
            counts: ``[2]``, what forget and retain loss count over the whole step.

        Returns:
            What the micro-batch adds to the objective, detached, a scalar; the mean over processes is what is logged.
        """
        objective = self._objective
        total = torch.zeros((), device=objective.config.device)
        for term in objective.active(inputs):
            views = [view for part in objective.parts for view in part.views(term)] or [PLAIN]
            whole = sum(view.weight for view in views)
            for view in views:
                with view.enter():
                    loss = self._contribution(inputs, counts, term, view) * (view.weight / whole)
                    self._accelerator.backward(loss)
                total += loss.detach()
            if self._keeps_apart:
                self._keep(term)
        if self._accelerator.sync_gradients:
            self._deliver()
        return total

    def gradients(self, term: TermName, batches: Iterable[dict[str, PaddedRows]], counts: Tensor) -> Gradients:
        """See :attr:`~hf_unlearn.robust.base.StepContext.term_gradients`.

        Args:
            term: Whose gradients.
            batches: This process's micro-batches of the step, on their device.
            counts: ``[2]``, what forget and retain loss count over the whole step.
        """
        for inputs in batches:
            if term in self._objective.active(inputs):
                self._accelerator.backward(self._contribution(inputs, counts, term, PLAIN, measured=False))
        return self._over_processes(self._taken())

    @torch.no_grad()
    def measure(
        self,
        batches: Iterable[dict[str, PaddedRows]],
        counts: Tensor,
        terms: Sequence[TermName] | None = None,
        measured: bool = False,
    ) -> StepValue:
        """See :attr:`~hf_unlearn.robust.base.StepContext.measure`.

        Args:
            batches: As for :meth:`gradients`.
            counts: As for :meth:`gradients`.
            terms: Which terms; by default those that are active.
            measured: Whether it counts in the means that are logged.
        """
        objective = self._objective
        sums = torch.zeros(1 + len(TERMS), dtype=torch.float64, device=objective.config.device)
        seen: set[TermName] = set()
        for inputs in batches:
            names = [name for name in objective.active(inputs) if terms is None or name in terms]
            if names:
                with self._computing():
                    total, made = objective.contribution(objective.model(), inputs, counts, names, None, measured)
                sums[0] += total
                for term in made:
                    sums[1 + TERMS.index(term.name)] += term.sum.total
                    seen.add(term.name)
        sums = self._accelerator.reduce(sums, reduction="sum")
        means = {name: (sums[1 + place] / counts[place].clamp(min=1)).item() for place, name in enumerate(TERMS)}
        return StepValue(sums[0].item(), {name: mean for name, mean in means.items() if name in seen})

    def _contribution(
        self, inputs: dict[str, PaddedRows], counts: Tensor, term: TermName, view: View, measured: bool = True
    ) -> Tensor:
        """Of one term. Means over processes are taken later, so it is scaled by their number."""
        with self._computing():
            loss, _ = self._objective.contribution(
                self._objective.model(), inputs, counts, (term,), view.name, measured
            )
        return loss * self._accelerator.num_processes

    def _keep(self, term: TermName) -> None:
        kept = self._kept.setdefault(term, {})
        for name, gradient in self._taken().items():
            kept[name] = kept[name] + gradient if name in kept else gradient

    @torch.no_grad()
    def _deliver(self) -> None:
        if not self._keeps_apart:
            if self._accelerator.num_processes > 1:
                means = self._over_processes(self._taken())
                for name, parameter in self._trained().items():
                    parameter.grad = means.get(name)
            return
        gradients = {term: self._over_processes(kept) for term, kept in self._kept.items()}
        self._kept = {}
        for part in self._objective.parts:
            gradients = part.change_gradients(gradients)
        for name, parameter in self._trained().items():
            summands = [kept[name] for kept in gradients.values() if name in kept]
            parameter.grad = sum(summands[1:], summands[0]) if summands else None

    def _taken(self) -> Gradients:
        """The gradients of all trained parameters; none are left behind."""
        gradients: Gradients = {}
        for name, parameter in self._trained().items():
            if parameter.grad is not None:
                gradients[name], parameter.grad = parameter.grad, None
        return gradients

    def _over_processes(self, gradients: Gradients) -> Gradients:
        """Means over all processes. A missing gradient counts as zero."""
        if self._accelerator.num_processes == 1:
            return gradients
        trained = self._trained()
        flags = torch.tensor([float(name in gradients) for name in trained], device=self._objective.config.device)
        somewhere = self._accelerator.reduce(flags, reduction="sum").tolist()
        means: Gradients = {}
        for (name, parameter), processes in zip(trained.items(), somewhere, strict=True):
            if processes:
                own = gradients[name] if name in gradients else torch.zeros_like(parameter)
                means[name] = self._accelerator.reduce(own, reduction="mean")
        return means

    def _trained(self) -> dict[str, nn.Parameter]:
        return trained_parameters(self._objective.model())
