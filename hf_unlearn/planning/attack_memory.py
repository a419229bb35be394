"""What one job of an attack takes of a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..attacks.base import Attack
from ..attacks.fitted import FittedAttack
from ..attacks.retraining import RetrainingAttack
from ..attacks.retraining_settings import RetrainingSettings
from ..data.encoding import EncodedRow, TextFormat
from ..data.example import DataBundle, Example
from ..models.loading import DTYPES
from .activations import by_rule, kept_by
from .memory import Memory, Step, Stored, inference_memory, training_memory
from .shape import ModelShape, shape_of

_STATES = {"adamw": 2 * 4, "lion": 4}
"""Bytes of the optimizer for a trained number in float32; as much less for narrower ones as these are narrower."""
_EIGHT_BITS = {"adamw_8bit": 2 * (1 + 4 / 256), "paged_adamw_8bit": 0.0}
"""The same whatever the number's type: one byte, and a scale for 256 of them. Paged states can leave the device."""


@dataclass(frozen=True)
class AttackedShape:
    """A model that is attacked, and where.

    Attributes:
        model: On the ``meta`` device.
        shape: Its sizes.
        accelerator: Whether the device is one: on a processor, weights that are trained have their copy beside them.
        processes: How many a sharded job is spread over.
    """

    model: Any
    shape: ModelShape
    accelerator: bool
    processes: int = 1

    def memory(self, settings: Attack | RetrainingSettings, tokens: int) -> tuple[Memory, ModelShape]:
        """Of one job on one device, and the sizes of what it trains.

        Args:
            settings: The attack, without its order.
            tokens: Of the longest row.
        """
        if isinstance(settings, FittedAttack):
            return self._fitted(settings.batch_size, tokens + settings.added_tokens)
        if not isinstance(settings, RetrainingSettings):
            return inference_memory(self.shape, 4, 4, 4096, 1024), self.shape
        sharded = settings.sharded and self.processes > 1
        tuning, steps, rows = settings.trained, settings.steps, settings.batch_size
        if sharded:
            rows = -(-rows // self.processes)
        length, dtype = min(tokens, steps.max_tokens or tokens), DTYPES[steps.dtype]
        model = tuning.without_weights(settings.name, self.model)
        kept = kept_by(model, rows, length, dtype) or by_rule(
            self.shape.layers, self.shape.width, self.shape.inner, rows, length, dtype.itemsize
        )
        size = dtype.itemsize
        trained_size = 4 if tuning.kind == "lora" else size
        states = _EIGHT_BITS.get(steps.optimizer)
        if states is None:
            states = _STATES[steps.optimizer] * trained_size / 4
        trained = shape_of(model)
        # A sharded model is read anew for every job, and has no copy.
        copies = int(tuning.kind == "full" and not self.accelerator and not sharded)
        # Logits are made at labels only, which are at most all tokens.
        step = Step(kept, rows * length, 4.0, 1, rows * length, weight_copies=copies)
        stored = Stored(size, trained_size, states, size)
        if sharded:
            return training_memory(trained, stored, step, "fsdp2", self.processes), trained
        return training_memory(trained, stored, step), trained

    def _fitted(self, rows: int, length: int) -> tuple[Memory, ModelShape]:
        """Weights in float32 that stay, gradients through all layers, and a few vectors that are fitted."""
        frozen = replace(self.shape, trained=0, body_trained=0.0, head_trained=False, largest=0)
        kept = by_rule(self.shape.layers, self.shape.width, self.shape.inner, rows, length, 4)
        step = Step(kept, rows * length, 4.0, 1, rows * length)
        return training_memory(frozen, Stored(4, 4, _STATES["adamw"], 4), step), frozen


def longest_row(settings: Attack, bundle: DataBundle, encode: Callable[[Example], EncodedRow]) -> int:
    """Tokens of the longest row that an attack trains on; of those that it asks for, if it trains on none."""
    rows = bundle.forget.score
    if isinstance(settings, RetrainingAttack | FittedAttack):
        lesson = settings.lesson(bundle, TextFormat())
        rows = (*lesson.texts.rows, *(lesson.first.rows if lesson.first else ()))
    return max(len(encode(row).input_ids) for row in rows)
