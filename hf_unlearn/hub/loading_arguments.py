"""Arguments of ``from_pretrained`` that leave what is computed as it was verified. Any other is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import RequestError

_NO_CODE = "code in a repository is not part of what was verified"
_AGAIN = "quantizing again makes a model that was not verified: load the published variant instead"
_ADAPTER = "an adapter makes another model"

_WHY = {
    "trust_remote_code": _NO_CODE,
    "code_revision": _NO_CODE,
    "use_kernels": _NO_CODE,
    "allow_all_kernels": _NO_CODE,
    "kernel_config": _NO_CODE,
    "quantization_config": _AGAIN,
    "load_in_4bit": _AGAIN,
    "load_in_8bit": _AGAIN,
    "subfolder": "the files in a sub-folder are not part of what was verified",
    "gguf_file": "the file is taken from the report",
    "adapter_kwargs": _ADAPTER,
    "adapter_name": _ADAPTER,
    "variant": "that file is not part of what was verified",
    "state_dict": "those weights are not what was verified",
    "config": "another configuration makes another model",
    "use_safetensors": "only safetensors are published",
    "weights_only": "only safetensors are published",
}
_OTHERWISE = "it may make another model than the one that was verified"

_DTYPES = frozenset({"auto", "float32", "bfloat16", "float16"})
_ATTENTION = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})


def _is_dtype(value: Any) -> bool:
    return str(value).removeprefix("torch.") in _DTYPES


def _is_attention(value: Any) -> bool:
    return value in _ATTENTION if isinstance(value, str) else False


def _is_place(value: Any) -> bool:
    # A model on the meta device has no weights.
    places = value.values() if isinstance(value, Mapping) else (value,)
    return not any(str(place).startswith("meta") for place in places)


ALLOWED: dict[str, Callable[[Any], bool]] = {
    "dtype": _is_dtype,
    "torch_dtype": _is_dtype,
    "device_map": _is_place,
    "max_memory": lambda _: True,
    "offload_folder": lambda _: True,
    "offload_buffers": lambda _: True,
    "disable_mmap": lambda _: True,
    "attn_implementation": _is_attention,
}
"""Precision, place and the way attention is computed: which values of them may be passed on."""

_ONLY = {"use_safetensors": True, "weights_only": True, "trust_remote_code": False, "local_files_only": True}
"""What is done anyway: saying so is accepted, and not passed on."""


def passed_on(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to load with.

    Args:
        given: As the caller wrote them. Those with the value ``None`` are taken for not given.

    Raises:
        RequestError: One of them is not allowed, or not with that value.
    """
    kept = {}
    for name, value in given.items():
        if value is None and (name in _WHY or name in ALLOWED):
            continue
        if name in _ONLY and value is _ONLY[name]:
            continue
        if name not in ALLOWED:
            raise RequestError(f"{name} is refused: {_WHY.get(name, _OTHERWISE)}; allowed are {', '.join(ALLOWED)}")
        if not ALLOWED[name](value):
            raise RequestError(f"{name}={value!r} is refused: {_OTHERWISE}")
        kept[name] = value
    return kept
