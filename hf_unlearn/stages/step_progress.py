"""Training within a run: the run's own bar in place of the trainer's bar and its lines of raw numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..runtime.steps import tell_steps

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState


class StepProgress(TrainerCallback):
    """Tells the run how many optimizer steps are made."""

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """After each optimizer step."""
        tell_steps(state.global_step, state.max_steps)


def show_steps_in_the_run(trainer: Trainer) -> None:
    """Take the trainer's own output away. What it logs is still in its history, and goes to ``report_to``."""
    for shown in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(shown)
    trainer.add_callback(StepProgress())
