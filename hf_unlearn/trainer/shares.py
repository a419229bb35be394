"""A micro-batch's share of the objective: from rows to a scalar with a graph, in the step that comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data.pairing import PaddedRows
from ..robust.base import TermName
from .finite import check_finite
from .metrics import told_of
from .objective import Objective
from .parts import term_factors
from .router import router_coefficient
from .terms import Term, TermMaker

if TYPE_CHECKING:
    from .unlearn_trainer import UnlearnTrainer


def step_objective(trainer: UnlearnTrainer) -> Objective:
    """What the step that comes next lowers."""
    return Objective(
        losses={"forget": trainer.forget_loss, "retain": trainer.retain_loss},
        weights={"forget": trainer.args.forget_weight, "retain": trainer.args.retain_weight},
        factors=term_factors(trainer.parts, trainer.state.global_step),
        micro_batches=max(1, len(trainer.step_batches)) * trainer.accelerator.num_processes,
    )


def make_terms(
    trainer: UnlearnTrainer,
    model: nn.Module,
    inputs: Mapping[str, PaddedRows],
    names: Sequence[TermName],
    view: str | None = None,
) -> list[Term]:
    """Terms of the objective for one micro-batch: see :meth:`~hf_unlearn.trainer.terms.TermMaker.make`."""
    losses, pad = step_objective(trainer).losses, trainer.processing_class.pad_token_id
    maker = TermMaker(losses, trainer.references, pad, trainer.accelerator.unwrap_model)
    return maker.make(model, inputs, names, view)


def weighted_sum(
    trainer: UnlearnTrainer, terms: Sequence[Term], inputs: Mapping[str, PaddedRows], counts: Tensor
) -> Tensor:
    """The share of the objective that some terms of a micro-batch make up.

    Args:
        trainer: The run.
        terms: Made from ``inputs``.
        inputs: The micro-batch, or a piece of it.
        counts: ``[2]``, what forget and retain loss count over the whole step.

    Raises:
        RequestError: If it is not finite.
    """
    objective = step_objective(trainer)
    rows = trainer.micro_rows or objective.rows(inputs)
    router = router_coefficient(trainer.accelerator.unwrap_model(trainer.model))
    loss = objective.weighted_sum(terms, counts.to(trainer.args.device), rows, router)
    refuse_not_finite(trainer, loss.detach(), "loss")
    return loss


def refuse_not_finite(trainer: UnlearnTrainer, value: Tensor, what: str) -> None:
    """See :func:`~hf_unlearn.trainer.finite.check_finite`, for the step that comes next."""
    step = trainer.state.global_step + 1
    check_finite(value, what, step, trainer.args, trainer.train_dataset, trainer.step_batches)


@torch.no_grad()
def record(trainer: UnlearnTrainer, terms: Sequence[Term]) -> None:
    """Adds terms to the means that are logged, and to those of the step."""
    for means in (trainer.logged_means, trainer.step_means):
        for name, total, count in told_of(terms):
            means.add(name, total, count)
