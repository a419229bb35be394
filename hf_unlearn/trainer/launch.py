"""What a launcher asked for, and whether that is what runs.

accelerate silently leaves out DeepSpeed and FSDP if it finds no accelerator; every process then holds the whole model,
for which someone who asked for sharding has no memory.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType

from ..errors import RequestError
from ..models.fast_bf16 import multiplies_bf16

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)


def _set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def asks_for_deepspeed(setting: Any) -> bool:
    """Whether the field ``deepspeed`` or the launcher names a DeepSpeed configuration."""
    return bool(setting) or _set("ACCELERATE_USE_DEEPSPEED")


def asks_for_fsdp(setting: Any) -> bool:
    """Whether the field ``fsdp`` or the launcher asks for FSDP."""
    return bool(setting) or _set("ACCELERATE_USE_FSDP")


def check_devices(args: TrainingArguments) -> None:
    """Refuse a process with several GPUs.

    Raises:
        RequestError: It sees more than one.
    """
    if args.n_gpu > 1:
        raise RequestError(
            "one process sees several GPUs: start one process per GPU with `accelerate launch`, or let it see one"
            " with CUDA_VISIBLE_DEVICES"
        )


def warn_of_slow_bf16(args: TrainingArguments) -> None:
    """Say so where computing in bfloat16 takes longer than in float32; the run is what was asked for all the same."""
    if args.bf16 and args.device.type == "cpu" and multiplies_bf16() is False:
        logger.warning(
            "bf16 is true, but this processor has no instructions for bfloat16 (avx512_bf16, amx_bf16): steps take "
            "longer than in float32; set bf16 to false"
        )


def check_launch(args: TrainingArguments, accelerator: Accelerator) -> None:
    """Refuse a run that is not the requested one, or that could not be saved.

    Raises:
        RequestError: Names what was requested and what would run, or the key to set.
    """
    running = accelerator.distributed_type
    for name, asked, kind in (
        ("DeepSpeed", asks_for_deepspeed(args.deepspeed), DistributedType.DEEPSPEED),
        ("FSDP", asks_for_fsdp(args.fsdp), DistributedType.FSDP),
    ):
        if asked and running is not kind and not (kind is DistributedType.FSDP and accelerator.num_processes == 1):
            raise RequestError(
                f"{name} was requested, but accelerate would run {running.value} instead, which keeps whole copies of "
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
