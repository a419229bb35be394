"""What the parts of a run are given at each of its moments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..robust.base import StepContext, StepResult, TrainingContext
from .measures import label_scores, loss_shares, retain_kl
from .parts import steps_of_run
from .reference import TargetModel, on_device
from .term_gradients import term_gradients

if TYPE_CHECKING:
    from .unlearn_trainer import UnlearnTrainer


def training_context(trainer: UnlearnTrainer, resuming: bool) -> TrainingContext:
    """Before the first step, and after the last one.

    Args:
        trainer: The run.
        resuming: Whether it goes on from a checkpoint.
    """
    args, rows = trainer.args, trainer.train_dataset
    return TrainingContext(
        model=trainer.accelerator.unwrap_model(trainer.model),
        forget_loss_shares=lambda: loss_shares(trainer, "forget"),
        retain_loss_shares=lambda: loss_shares(trainer, "retain"),
        forget_rows=trainer.forget_rows,
        retain_rows=rows.retain,
        batch_size=args.per_device_train_batch_size,
        rows_per_step=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        pad_token_id=trainer.processing_class.pad_token_id,
        max_steps=steps_of_run(args, len(rows)),
        output_dir=Path(str(args.output_dir)),
        resuming=resuming,
        writes=args.should_save,
        batches=lambda chosen: (on_device(batch, trainer.model) for batch in trainer.rows_in_order(chosen)),
        score=lambda batch: label_scores(trainer, batch),
        retain_kl=lambda: retain_kl(trainer, trainer.references["target"]),
        floating_point_ops=trainer.operations_of,
    )


def step_context(trainer: UnlearnTrainer) -> StepContext:
    """Before a step."""
    optimizer: Any = trainer.optimizer
    return StepContext(
        step=trainer.state.global_step,
        model=trainer.accelerator.unwrap_model(trainer.model),
        optimizer=getattr(optimizer, "optimizer", optimizer),  # accelerate wraps it
        term_gradients=lambda term: term_gradients(trainer, term, trainer.step_batches, trainer.step_counts),
        set_reference=lambda: _refer_to_now(trainer),
    )


def step_result(trainer: UnlearnTrainer) -> StepResult:
    """After a step."""
    return StepResult(
        step=trainer.state.global_step + 1,
        model=trainer.accelerator.unwrap_model(trainer.model),
        means=lambda: trainer.step_means.means(trainer.accelerator),
    )


def _refer_to_now(trainer: UnlearnTrainer) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    now = TargetModel(model, (trainer.accelerator.autocast,), changes=True)
    trainer.references.take_retain(now, trainer.retain_loss, trainer.parts)
