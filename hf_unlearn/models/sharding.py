"""Models whose weights are sharded over several processes, and models that must not be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import nn

from .decoder import decoder_layers

if TYPE_CHECKING:
    from accelerate import Accelerator


def taken_over(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed or FSDP wraps the model in training, and handles its gradients."""
    return accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)


def in_pieces(accelerator: Accelerator) -> bool:
    """Whether no process has the whole model in training."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        plugin: Any = accelerator.state.deepspeed_plugin
        return bool(plugin.zero_stage == 3)
    return accelerator.distributed_type is DistributedType.FSDP


def _lies_in_pieces(model: nn.Module) -> bool:
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def count_in_pieces(model: nn.Module) -> int:
    """Parameters of a model that ZeRO-3 shards, without embeddings, as transformers counts those of whole models.

    It counts what lies in this process at the moment instead. 0 for other models.
    """
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    sizes = {name: getattr(parameter, "ds_numel", 0) for name, parameter in model.named_parameters()}
    return sum(size for name, size in sizes.items() if name not in embeddings)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """All weights of a model sharded by ZeRO-3, whole in every process. Does nothing for other models."""
    if not _lies_in_pieces(model):
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(list(model.parameters())):
        yield


@contextmanager
def gathered_in_turn(model: nn.Module) -> Iterator[None]:
    """Lets a model whose weights are sharded (ZeRO-3) be called before DeepSpeed has wrapped it.

    Each module's own weights are gathered when it is called and released when it returns, so only one module's weights
    are whole at a time. Every process has to make the same calls. Does nothing for other models.
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


def shard(model: nn.Module, device: torch.device) -> None:
    """Shard a whole model over the processes of the group, layer by layer (FSDP2), and put the shards on a device.

    Args:
        model: The same weights in every process, in main memory. What wants gradients is set.
        device: This process's.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)  # the head is called once more on its own
    model.to(device)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Whole weights are first made here: made in inference mode, where scoring runs, they could not be trained.
            module.unshard()
            module.reshard()


def reshard(model: nn.Module) -> None:
    """Lets go of whole weights that a forward pass leaves if no backward pass follows (FSDP2, ZeRO-3).

    They take memory, and under FSDP2 a step of the optimizer would leave them as they were. Does nothing for other
    models.

    Args:
        model: The model as the training loop calls it.
    """
    from torch.distributed.fsdp import FSDPModule

    zero: Any = getattr(model, "optimizer", None)
    if hasattr(zero, "empty_partition_cache"):
        zero.empty_partition_cache()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def forget_deepspeed() -> None:
    """Models that are loaded after a training are no longer sharded by ZeRO-3."""
    from .._compat import deepspeed

    deepspeed.unset_hf_deepspeed_config()


@contextmanager
def alone() -> Iterator[None]:
    """Models that one process loads by itself while others wait are not sharded."""
    from .._compat import deepspeed

    known = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = known


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move the model to its device before training does: DeepSpeed and FSDP place models when they wrap them.

    Does nothing for models that are already there, sharded, or quantized (those cannot be moved).
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
    """A second model with the same weights, which is never trained. Sharded weights (ZeRO-3) are whole in the copy."""
    with gathered(model):
        return copy.deepcopy(model).requires_grad_(False).eval()
