"""How a launch spreads a model: by name, or as an accelerate file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml

from ..errors import RequestError
from ..registry import suggest
from .machines import Machine
from .memory import STRATEGIES, Strategy
from .training import Devices


def devices_of(machine: Machine, count: int | None, strategy: str | None) -> Devices:
    """The devices of a plan.

    Args:
        machine: One device.
        count: How many; 1 if neither this nor the file says.
        strategy: One of :data:`~.memory.STRATEGIES`, or an accelerate file; DDP for several devices if left out.

    Raises:
        RequestError: There is no such strategy or file, or the two do not go together.
    """
    if strategy is None:
        return Devices(machine, count or 1, "ddp" if (count or 1) > 1 else "one")
    if strategy in STRATEGIES:
        name = cast(Strategy, strategy)
        if name != "one" and count in (None, 1):
            raise RequestError(f"--strategy {name} is for several devices: say how many with --gpus")
        if name == "one" and count not in (None, 1):
            raise RequestError(f"--strategy one is for one device, and --gpus is {count}: leave one of them out")
        return Devices(machine, count or 1, name)
    path = Path(strategy)
    if path.suffix not in (".yaml", ".yml"):
        raise RequestError(f"--strategy {strategy}: {suggest(strategy, list(STRATEGIES))}, or name an accelerate file")
    return _from_file(path, machine, count)


def _from_file(path: Path, machine: Machine, count: int | None) -> Devices:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"--strategy {path}: cannot be read as an accelerate file ({error})") from None
    if not isinstance(values, dict) or "distributed_type" not in values:
        raise RequestError(f"--strategy {path}: is no accelerate file: it has no distributed_type")
    many = count or int(values.get("num_processes") or 1)
    return Devices(machine, many, _strategy(values, many))


def _strategy(values: dict[str, Any], count: int) -> Strategy:
    kind = str(values["distributed_type"])
    deepspeed = values.get("deepspeed_config") or {}
    if kind == "DEEPSPEED":
        if int(deepspeed.get("zero_stage", 2)) < 3:
            return "zero2"
        return "zero3_offload" if deepspeed.get("offload_param_device") == "cpu" else "zero3"
    if count == 1:
        return "one"
    return "fsdp2" if kind == "FSDP" else "ddp"
