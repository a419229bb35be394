"""The trained weights under DeepSpeed, which keeps flat float32 shards of its own (ZeRO-2 and ZeRO-3) and steps them.

DeepSpeed has no public way to change these shards and to step them with another optimizer. What its optimizers do is
followed here (``runtime/zero/stage_1_and_2.py`` and ``stage3.py``; tested with 0.19.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import RequestError
from ..models.training_loop import Stepping
from .trained_weights import TrainedWeights


class ZeroWeights(TrainedWeights):
    """The flat float32 shards that a process holds under ZeRO-2 or ZeRO-3, one for each group of weights.

    Args:
        engine: The DeepSpeed engine of the run.
    """

    sharded: ClassVar[bool] = True

    def __init__(self, engine: Any) -> None:
        super().__init__(engine.module)
        self._engine, self._zero = engine, engine.optimizer

    @property
    def _in_pieces(self) -> bool:
        return hasattr(self._zero, "fp32_partitioned_groups_flat")

    def tensors(self) -> dict[str, Tensor]:
        """By the number of the group."""
        name = "fp32_partitioned_groups_flat" if self._in_pieces else "single_partition_of_fp32_groups"
        flat: Sequence[Tensor] = getattr(self._zero, name)
        return {f"shard.{number}": tensor.detach() for number, tensor in enumerate(flat)}

    @torch.no_grad()
    def changed(self) -> None:
        """As at the end of a step: the weights that the model computes with are made from the shards."""
        zero = self._zero
        if not self._in_pieces:
            zero.update_lp_params()
            return
        zero._partition_all_parameters()
        for number in range(len(self.tensors())):
            zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
        zero.invalidate_secondary_tensor()

    def backward(self, loss: Tensor, last: bool) -> None:
        """Through the engine, which averages gradients and keeps this process's shards of them."""
        # The training loop sets the boundary before each of its own passes.
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    @contextmanager
    def adamw(self, rate: float, max_grad_norm: float) -> Iterator[Stepping]:
        """Stands in for the optimizer that ZeRO steps its shards with; ZeRO itself clips and updates the model.

        The engine's own step is not made, so its counters and its learning-rate schedule stay where they are.
        """
        zero = self._zero
        # Of ZeRO-3 the groups are empty between steps: it puts its shards in one after the other.
        groups = [{"params": list(group["params"])} for group in zero.optimizer.param_groups]
        own = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
        # `backup_optimizer` steps what an optimizer in the CPU's memory leaves on the device.
        given = {name: getattr(zero, name) for name in ("optimizer", "backup_optimizer") if hasattr(zero, name)}
        clipped_to, zero.clip_grad = zero.clip_grad, max_grad_norm
        for name in given:
            setattr(zero, name, own)
        try:
            yield _ZeroSteps(zero)
        finally:
            zero.clip_grad = clipped_to
            for name, optimizer in given.items():
                setattr(zero, name, optimizer)
            _let_go_of_states(zero)


class _ZeroSteps:
    """Steps of a ZeRO optimizer without those of its engine."""

    def __init__(self, zero: Any) -> None:
        self.param_groups: list[dict[str, Any]] = []  # nothing is clipped from outside
        self._zero = zero

    def zero_grad(self) -> None:
        """Of the model's weights; ZeRO drops those of its shards itself."""
        self._zero.zero_grad()

    def step(self) -> None:
        """One step.

        Raises:
            RequestError: ZeRO would leave out a step whose gradients are not finite.
        """
        self._zero.step()
        if self._zero.overflow:
            raise RequestError("the gradients of a rehearsed attack are not finite: lower learning_rate")


def clear_states(optimizer: Any) -> None:
    """Momentum and the like start anew with the next step.

    Args:
        optimizer: A torch optimizer, or a ZeRO optimizer around one.
    """
    optimizer.state.clear()
    for group in optimizer.param_groups:
        if "step" in group:  # where DeepSpeed's fused optimizers begin to count
            group["step"] = 0
    _let_go_of_states(optimizer)


def _let_go_of_states(zero: Any) -> None:
    """ZeRO-2 has slices of its states at hand for each weight: they would keep the states' memory."""
    if not hasattr(zero, "_hp_optimizer_states_linked"):
        return
    zero._hp_optimizer_states_linked = False
    for group in zero.bit16_groups:
        for weight in group:
            if weight._hp_mapping is not None:
                weight._hp_mapping.optim_fragment = None
