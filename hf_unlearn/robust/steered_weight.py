"""A retain weight that follows what the retain loss does, kept in checkpoints."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from ..errors import RequestError
from .base import StepResult, TermWeights, TrainingPart


class SteeredRetainWeight(TrainingPart):
    """Changes the retain term's factor after every step.

    The factor never reaches 0: a retain term that is not computed shows nothing, and could not come back.

    Attributes:
        measured: Name of the mean that it follows, as it is logged.
        least: Least factor.
        state_file: In a checkpoint: the factor and what else :meth:`remember` gives.
    """

    needs_retain: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = False
    measured: ClassVar[str] = "loss/retain"
    least: ClassVar[float] = 1e-4
    state_file: ClassVar[str]

    factor: float

    @abstractmethod
    def next_factor(self, value: float, step: int) -> float:
        """The factor for the next step.

        Args:
            value: The mean over the step that was just made.
            step: Steps taken so far, that one included.
        """

    def term_weights(self, step: int) -> TermWeights:
        """The factor on the retain term."""
        return TermWeights(retain=self.factor)

    def after_step(self, result: StepResult) -> None:
        """Follows the retain loss of the step; a step without a retain term changes nothing."""
        value = result.means().get(self.measured)
        if value is not None:
            self.factor = max(self.least, self.next_factor(value, result.step))

    def outcome(self) -> dict[str, Any]:
        """The factor for the step after the checkpoint."""
        return {"retain_factor": self.factor}

    def remember(self) -> dict[str, float]:
        """Further state besides the factor."""
        return {}

    def recall(self, kept: dict[str, float]) -> None:
        """Restores what :meth:`remember` gave."""

    def save_state(self, folder: Path) -> None:
        """One small file."""
        kept = {"factor": self.factor, **self.remember()}
        (folder / self.state_file).write_text(json.dumps(kept), encoding="utf-8")

    def load_state(self, folder: Path) -> None:
        """Continues with the factor of the checkpoint.

        Raises:
            RequestError: The file is missing or damaged.
        """
        path = folder / self.state_file
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.factor = float(kept.pop("factor"))
            self.recall(kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{path} is missing or damaged: delete this checkpoint to resume from the one before"
            ) from error
