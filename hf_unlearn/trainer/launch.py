"""What a launcher asked for, and whether it is what runs.

accelerate leaves DeepSpeed and FSDP out in silence where it finds no accelerator; every process then holds the whole
model, which nobody who asked for pieces has room for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import nn

from ..errors import RequestError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .config import UnlearnConfig


def _set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def asks_for_deepspeed(setting: Any) -> bool:
    """Whether the field ``deepspeed`` or the launcher names a DeepSpeed configuration."""
    return bool(setting) or _set("ACCELERATE_USE_DEEPSPEED")


def asks_for_fsdp(setting: Any) -> bool:
    """Whether the field ``fsdp`` or the launcher asks for FSDP."""
    return bool(setting) or _set("ACCELERATE_USE_FSDP")


def check_launch(args: UnlearnConfig, accelerator: Accelerator) -> None:
    """Refuses a run that is not the one that was asked for, or that could not be saved.

    Raises:
        RequestError: Names what was asked for and what would run, or the key to set.
    """
    running = accelerator.distributed_type
    for name, asked, kind in (
        ("DeepSpeed", asks_for_deepspeed(args.deepspeed), DistributedType.DEEPSPEED),
        ("FSDP", asks_for_fsdp(args.fsdp), DistributedType.FSDP),
    ):
        if asked and running is not kind and not (kind is DistributedType.FSDP and accelerator.num_processes == 1):
            raise RequestError(
                f"{name} was asked for and accelerate would run {running.value} instead, which keeps whole copies of "
                f"the model: {name} needs an accelerator in every process; without one launch with ddp.yaml"
            )
    if running is DistributedType.DEEPSPEED:
        _check_deepspeed(accelerator)
    if running is DistributedType.FSDP:
        _check_fsdp(accelerator)


def _check_deepspeed(accelerator: Accelerator) -> None:
    plugin: Any = accelerator.state.deepspeed_plugin
    if plugin.zero_stage == 3 and not plugin.deepspeed_config["zero_optimization"].get(
        "stage3_gather_16bit_weights_on_model_save"
    ):
        raise RequestError(
            "ZeRO-3 would save no whole weights: set zero3_save_16bit_model: true in the accelerate file"
            " (stage3_gather_16bit_weights_on_model_save in a DeepSpeed file)"
        )


def _check_fsdp(accelerator: Accelerator) -> None:
    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise RequestError("FSDP version 1 is not supported: set fsdp_version: 2 in the accelerate file")
    if plugin.cpu_ram_efficient_loading:
        raise RequestError(
            "with fsdp_cpu_ram_efficient_loading only the first process has the target's weights when they are first"
            " looked at: set it to false in the accelerate file"
        )


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
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


@contextmanager
def alone() -> Iterator[None]:
    """Models that one process loads by itself while others wait are not cut into pieces."""
    from transformers.integrations import deepspeed

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
