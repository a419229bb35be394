"""The precision in which weights are kept between steps.

An optimizer step of size ``lr`` on a weight ``w`` is lost in bfloat16 wherever it is smaller than half the distance
between neighbouring numbers, which is about ``|w| / 256``. What is left is unlearning that only small weights carry.
float32 keeps every step; stochastic rounding keeps them on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import RequestError
from ..robust.base import StepResult, TrainingPart
from ..robust.weights import trained_parameters

STEPPINGS = ("fp32", "bf16", "bf16-stochastic")
_LOW_BITS = 16  # of a float32, those that bfloat16 leaves out


@dataclass
class RoundedSteps(TrainingPart):
    """Rounds every trained weight to bfloat16 after every step; the optimizer and its state stay as they are.

    The weights are float32 tensors that hold bfloat16 values, which is what a bfloat16 model without float32 master
    weights holds.

    Args:
        stochastic: Round up or down at random so that the mean is kept, instead of to the nearest.
        seed: Of those draws. They depend only on seed and step, so a resumed run draws the same.
    """

    stochastic: bool = False
    seed: int = 0

    needs_whole_weights: ClassVar[bool] = False

    @torch.no_grad()
    def after_step(self, result: StepResult) -> None:
        """Round what the step changed."""
        generators: dict[torch.device, torch.Generator] = {}
        for parameter in trained_parameters(result.model).values():
            # Sharded parameters (FSDP2) are rounded shard by shard.
            values: Tensor = getattr(parameter, "to_local", lambda here=parameter: here)()
            if not self.stochastic:
                values.copy_(nearest_bf16(values))
                continue
            if values.device not in generators:
                # A large odd factor keeps the streams of neighbouring seeds and steps apart.
                seed = self.seed * 1_000_003 + result.step - 1
                generators[values.device] = torch.Generator(values.device).manual_seed(seed)
            values.copy_(stochastic_bf16(values, generators[values.device]))


def nearest_bf16(values: Tensor) -> Tensor:
    """``values`` rounded to bfloat16, ties to even, in their own type."""
    return values.to(torch.bfloat16).to(values.dtype)


def stochastic_bf16(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``values`` rounded to one of the two bfloat16 numbers around each, nearer ones more likely.

    A value a share ``p`` of the way from the lower to the upper neighbour becomes the upper one with probability
    ``p``, so the expectation is the value itself. Values that bfloat16 can represent, or that are not finite, stay.

    Args:
        values: Any shape, float32.
        generator: On the device of ``values``.
    """
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << _LOW_BITS, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    # The bits of a float32 grow with its magnitude: adding to the low ones and cutting them off rounds up as often as
    # their share of a step says, away from zero for either sign.
    rounded = ((bits + noise) >> _LOW_BITS << _LOW_BITS).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values)


def stepping_part(stepping: str, seed: int) -> TrainingPart | None:
    """The part that makes a run step in this precision; ``None`` for float32."""
    return None if stepping == "fp32" else RoundedSteps(stepping == "bf16-stochastic", seed)


@torch.no_grad()
def round_model(model: nn.Module) -> None:
    """Rounds all weights to the nearest bfloat16, as loading a model in bfloat16 does; they stay float32 tensors."""
    for parameter in model.parameters():
        parameter.copy_(nearest_bf16(parameter))


def check_stepping(stepping: str, model: nn.Module, deepspeed: Any) -> None:
    """Refuse settings that would have no effect.

    Raises:
        RequestError: The weights are not float32, or DeepSpeed keeps copies of them.
    """
    if stepping == "fp32":
        return
    if deepspeed:
        raise RequestError(
            f"stepping {stepping!r} cannot be used under DeepSpeed, which steps float32 copies of the weights: use DDP"
        )
    if any(parameter.dtype != torch.float32 for parameter in trained_parameters(model).values()):
        raise RequestError(
            f"stepping {stepping!r} rounds float32 weights itself: leave dtype out of model_init_kwargs"
        )
