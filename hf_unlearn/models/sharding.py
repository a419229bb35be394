"""Models whose weights lie in pieces on several processes, and models that are to stay out of that."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import nn

if TYPE_CHECKING:
    from accelerate import Accelerator


def taken_over(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed or FSDP has the model while it is trained, and deals with its gradients."""
    return accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)


def in_pieces(accelerator: Accelerator) -> bool:
    """Whether no process has the whole model while it is trained."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        plugin: Any = accelerator.state.deepspeed_plugin
        return bool(plugin.zero_stage == 3)
    return accelerator.distributed_type is DistributedType.FSDP


def _lies_in_pieces(model: nn.Module) -> bool:
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """All weights of a model that ZeRO-3 keeps in pieces, whole in every process. Does nothing for other models."""
    if not _lies_in_pieces(model):
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(list(model.parameters())):
        yield


@contextmanager
def gathered_in_turn(model: nn.Module) -> Iterator[None]:
    """Lets a model whose weights lie in pieces (ZeRO-3) be called before DeepSpeed has taken it over.

    Each module's own weights are gathered when it is called and let go when it returns, so that one module's weights
    at a time are whole. Every process has to make the same calls. Does nothing for other models.
    """
    if not _lies_in_pieces(model):
        yield
        return
    from deepspeed import zero

    held: dict[nn.Module, list[Any]] = {}

    def gather(module: nn.Module, inputs: Any) -> None:
        context = zero.GatheredParameters(list(module.parameters(recurse=False)))
        context.__enter__()
        held.setdefault(module, []).append(context)

    def let_go(module: nn.Module, inputs: Any, output: Any) -> None:
        held[module].pop().__exit__(None, None, None)

    owners = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    handles = [module.register_forward_pre_hook(gather) for module in owners]
    handles += [module.register_forward_hook(let_go, always_call=True) for module in owners]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def forget_deepspeed() -> None:
    """Models that are loaded after a training are no longer cut into pieces by ZeRO-3."""
    from .._compat import deepspeed

    deepspeed.unset_hf_deepspeed_config()


@contextmanager
def alone() -> Iterator[None]:
    """Models that one process loads by itself while others wait are not cut into pieces."""
    from .._compat import deepspeed

    known = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = known


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model on its device before training has put it there: DeepSpeed and FSDP place models when they take over.

    Does nothing for models that are there already, in pieces, or quantized (those cannot be moved).
    """
    before = next(model.parameters()).device
    if before == device or _lies_in_pieces(model) or getattr(model, "is_quantized", False):
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to(before)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A second model with the same weights, which nothing trains. Weights in pieces (ZeRO-3) are whole in the copy."""
    with gathered(model):
        return copy.deepcopy(model).requires_grad_(False).eval()
