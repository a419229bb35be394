"""Where a model is put that is only scored: on one device, or over several if it does not fit one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

# What weights may take of a device: activations, logits and keys and values of a batch need the rest.
_SHARE = 0.8
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def spread_devices(folder: Path | str, dtype: str) -> str | None:
    """The ``device_map`` of a model that does not fit one device of this process; ``None`` where it does.

    It depends on the size of the devices and not on what is free, so all processes of a launch decide alike.

    Args:
        folder: A ``save_pretrained`` folder, quantized or not.
        dtype: Type of the weights that are not quantized.
    """
    if not torch.cuda.is_available():
        return None
    sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    return "auto" if needs_several(weight_bytes(Path(folder), dtype), sizes) else None


def needs_several(weights: int, devices: Sequence[int]) -> bool:
    """Whether weights need more than one device, and there are more.

    Args:
        weights: Bytes.
        devices: Bytes of memory of each device.
    """
    return len(devices) > 1 and weights > _SHARE * min(devices)


def weight_bytes(folder: Path, dtype: str) -> int:
    """Bytes of a folder's weights in memory; 0 for an id on the Hub, which is not looked at.

    Quantized weights stay as they are stored, plain ones are read in ``dtype``.
    """
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # loading says what is wrong
        return stored
    own = config.get("dtype") or config.get("torch_dtype")
    if config.get("quantization_config") is not None or own not in _BYTES:
        return stored
    return stored * _BYTES[dtype] // _BYTES[own]


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its inputs, also if its first weights are on disk for now."""
    if model.device.type != "meta":
        return model.device
    places = [place for place in getattr(model, "hf_device_map", {}).values() if place not in ("disk", "meta")]
    first = places[0] if places else "cpu"
    return torch.device("cuda", first) if isinstance(first, int) else torch.device(first)
