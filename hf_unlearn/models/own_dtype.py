"""The type of a checkpoint's weights, which what is made from it has too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from safetensors import safe_open
from transformers import AutoConfig

from ..errors import RequestError, first_line

Dtype = Literal["float32", "bfloat16", "float16"]

_STORED: Mapping[str, Dtype] = {"BF16": "bfloat16", "F16": "float16"}
_OWN: Mapping[str, Dtype] = {"bfloat16": "bfloat16", "float16": "float16"}


def own_dtype(folder: Path, whole: Callable[[], Path] | None = None) -> Dtype:
    """``bfloat16`` or ``float16`` for a checkpoint of that type, ``float32`` for all others.

    It is what ``from_pretrained(folder, dtype="auto")`` gives: the type that config.json names or, if it names none,
    that of the first weights in the files.

    Args:
        folder: The checkpoint, or its configuration alone.
        whole: Gives the folder with its weights, where ``folder`` may lack them; asked if config.json names no type.

    Raises:
        RequestError: config.json cannot be used.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"model.target: {folder} has a config.json that cannot be used: {first_line(error)}"
        ) from error
    named = config.dtype or config.get_text_config().dtype
    if named is None:
        return _first_stored(folder if whole is None else whole())
    return _OWN.get(str(named).removeprefix("torch."), "float32")


def _first_stored(folder: Path) -> Dtype:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no mapping)
                return _STORED.get(weights.get_slice(name).get_dtype(), "float32")
    return "float32"
