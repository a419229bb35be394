"""What happens at the events of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .moments import step_context, step_result

if TYPE_CHECKING:
    from .unlearn_trainer import UnlearnTrainer


FINAL_STEP = "final_step/"
"""Start of the names under which the means of the last step stand in the log history."""


class RunCallback(TrainerCallback):
    """Deals new retain rows each epoch, lets parts act after each step, and notes the last step's metrics."""

    def __init__(self, trainer: UnlearnTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A data loader tells its data set of a new epoch only where one process reads it."""
        self._trainer.train_dataset.set_epoch(int(state.epoch or 0))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What parts keep beside the weights of a checkpoint is read back."""
        self._trainer.load_parts()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Means of a step start anew, and parts may change weights and optimizer."""
        self._trainer.step_means.clear()
        for part in self._trainer.parts:
            part.before_step(step_context(self._trainer))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The weights have just changed."""
        for part in self._trainer.parts:
            part.after_step(step_result(self._trainer))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A part may end the run. The last step's means are kept with its checkpoint, for a run resumed from it."""
        if any(part.ended(state.global_step) for part in self._trainer.parts):
            control.should_training_stop = True
        if control.should_training_stop or state.global_step >= state.max_steps:
            means = self._trainer.step_means.means(self._trainer.accelerator)
            state.log_history.append({"step": state.global_step, **{FINAL_STEP + key: means[key] for key in means}})
