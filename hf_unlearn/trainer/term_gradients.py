"""Forward and backward passes of the two terms apart, for parts that look at weights or gradients of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.pairing import PaddedRows
from ..errors import RequestError
from ..models.sharding import taken_over
from ..robust.base import Gradients, TermName, TrainingPart, View
from ..robust.weights import trained_parameters
from .shares import make_terms, record, step_objective, weighted_sum

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .config import UnlearnConfig
    from .unlearn_trainer import UnlearnTrainer

PLAIN = View("plain", nullcontext)
"""The weights as they are."""


def needs_separate_passes(part: TrainingPart) -> bool:
    """Whether the terms cannot share a forward and a backward pass."""
    return part.makes_views or part.changes_gradients


def check_parts(parts: Sequence[TrainingPart], accelerator: Accelerator, args: UnlearnConfig) -> None:
    """Refuses parts that this kind of training has no place for.

    Raises:
        RequestError: Weights or gradients lie in pieces, or are scaled for fp16.
    """
    for part in parts:
        name = type(part).__name__
        apart = needs_separate_passes(part)
        if (part.needs_whole_weights or apart) and taken_over(accelerator):
            kind = accelerator.distributed_type.value
            raise RequestError(f"robust: {name} needs whole weights, and {kind} keeps them in pieces: use DDP")
        if apart and args.fp16:
            raise RequestError(f"robust: {name} takes gradients apart, which fp16 scales: use bf16 or float32")


class SeparatePasses:
    """Runs the terms of a micro-batch one after the other, each under all of its views.

    Gradients of several processes are averaged here, once a step: the model is called without its wrapper.

    Args:
        trainer: Whose terms these are.
    """

    def __init__(self, trainer: UnlearnTrainer) -> None:
        self._trainer = trainer
        self._keeps_apart = any(part.changes_gradients for part in trainer.parts)
        self._kept: dict[TermName, Gradients] = {}

    def run(self, inputs: dict[str, PaddedRows], counts: Tensor) -> Tensor:
        """All passes of a micro-batch; after the last micro-batch of a step the gradients are where they are due.

        Args:
            inputs: The micro-batch, on its device.
            counts: ``[2]``, what forget and retain loss count over the whole step.

        Returns:
            The micro-batch's share of the objective, detached, a scalar; the mean over processes is what is logged.
        """
        trainer = self._trainer
        total = torch.zeros((), device=trainer.args.device)
        for term in step_objective(trainer).active(inputs):
            views = [view for part in trainer.parts for view in part.views(term)] or [PLAIN]
            whole = sum(view.weight for view in views)
            for view in views:
                with view.enter():
                    loss = _share(trainer, inputs, counts, term, view) * (view.weight / whole)
                    trainer.accelerator.backward(loss)
                total += loss.detach()
            if self._keeps_apart:
                self._keep(term)
        if trainer.accelerator.sync_gradients:
            self._deliver()
        return total

    def _keep(self, term: TermName) -> None:
        kept = self._kept.setdefault(term, {})
        for name, parameter in _trained(self._trainer).items():
            if parameter.grad is not None:
                kept[name] = kept[name] + parameter.grad if name in kept else parameter.grad
                parameter.grad = None

    @torch.no_grad()
    def _deliver(self) -> None:
        trainer = self._trainer
        if not self._keeps_apart:
            if trainer.accelerator.num_processes > 1:
                means = _over_processes(trainer, _taken(trainer))
                for name, parameter in _trained(trainer).items():
                    parameter.grad = means.get(name)
            return
        gradients = {term: _over_processes(trainer, kept) for term, kept in self._kept.items()}
        self._kept = {}
        for part in trainer.parts:
            gradients = part.change_gradients(gradients)
        for name, parameter in _trained(trainer).items():
            parts = [kept[name] for kept in gradients.values() if name in kept]
            parameter.grad = sum(parts[1:], parts[0]) if parts else None


def term_gradients(
    trainer: UnlearnTrainer, term: TermName, batches: Sequence[dict[str, PaddedRows]], counts: Tensor
) -> Gradients:
    """See :attr:`~hf_unlearn.robust.base.StepContext.term_gradients`."""
    for batch in batches:
        inputs: Any = trainer._prepare_inputs(dict(batch))
        if term in step_objective(trainer).active(inputs):
            trainer.accelerator.backward(_share(trainer, inputs, counts, term, PLAIN, recorded=False))
    return _over_processes(trainer, _taken(trainer))


def _share(
    trainer: UnlearnTrainer,
    inputs: dict[str, PaddedRows],
    counts: Tensor,
    term: TermName,
    view: View,
    recorded: bool = True,
) -> Tensor:
    """One term's share of the objective. Means over processes are taken later, so it is scaled by their number."""
    model: nn.Module = trainer.accelerator.unwrap_model(trainer.model)
    with trainer.compute_loss_context_manager():
        terms = make_terms(trainer, model, inputs, (term,), view.name)
        loss = weighted_sum(trainer, terms, inputs, counts)
    if recorded:
        record(trainer, terms)
    return loss * trainer.accelerator.num_processes


def _taken(trainer: UnlearnTrainer) -> Gradients:
    """The gradients of all trained parameters; none are left behind."""
    gradients: Gradients = {}
    for name, parameter in _trained(trainer).items():
        if parameter.grad is not None:
            gradients[name], parameter.grad = parameter.grad, None
    return gradients


def _over_processes(trainer: UnlearnTrainer, gradients: Gradients) -> Gradients:
    """Means over all processes. A parameter that only some of them have a gradient of counts as zero on the others."""
    accelerator = trainer.accelerator
    if accelerator.num_processes == 1:
        return gradients
    trained = _trained(trainer)
    flags = torch.tensor([float(name in gradients) for name in trained], device=trainer.args.device)
    somewhere = accelerator.reduce(flags, reduction="sum").tolist()
    means: Gradients = {}
    for (name, parameter), processes in zip(trained.items(), somewhere, strict=True):
        if processes:
            own = gradients[name] if name in gradients else torch.zeros_like(parameter)
            means[name] = accelerator.reduce(own, reduction="mean")
    return means


def _trained(trainer: UnlearnTrainer) -> dict[str, nn.Parameter]:
    return trained_parameters(trainer.accelerator.unwrap_model(trainer.model))
