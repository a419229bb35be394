"""Sizes that a machine cannot hold, told from the numbers of a configuration before any of it is built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
# Ten times and more what the largest models have. Larger numbers are a slip or an attack: building such a model ends
# the process, or keeps it busy for hours, before any weight is read.
_MOST = {
    **dict.fromkeys((*_LAYERS, *_EXPERTS), 10_000),
    **dict.fromkeys(_WIDTHS, 1_000_000),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff"), 10_000_000),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "head_dim"), 100_000),
    "vocab_size": 20_000_000,
    **dict.fromkeys(("max_position_embeddings", "max_positions"), 1_000_000_000),
}

_FITS_ANYWHERE = 10**9
"""As many numbers fit into the memory of any machine that models run on: it is not asked, which takes seconds."""


def refuse_sizes(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration of a model that this machine cannot hold in any type of numbers.

    Args:
        config: Of ``config.json``; its parts, such as ``text_config``, are looked at too.
        where: What messages call it.

    Raises:
        RequestError: A size is beyond those of all models, or the embeddings alone have more numbers than this machine
            has bytes. Names the key.
    """
    for key, most in _MOST.items():
        if _size(config, key) > most:
            raise RequestError(f"{where}: {key} is {config[key]}, and no model has more than {most}: correct it")
    width = next((size for key in _WIDTHS if (size := _size(config, key))), 1)
    numbers = _size(config, "vocab_size") * width
    if numbers > _FITS_ANYWHERE and numbers > (room := machine_memory()):
        raise RequestError(
            f"{where}: vocab_size {config['vocab_size']} times hidden size {width} is {numbers:.1e} numbers, and this "
            f"machine has {room:.1e} bytes of memory: use a machine with more, or a smaller model"
        )
    for key, part in config.items():
        if isinstance(part, Mapping):
            refuse_sizes(part, f"{where}, {key}")


def machine_memory() -> int:
    """Bytes of main memory and of all accelerators of this machine."""
    import torch

    main = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 50
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return main + sum(torch.cuda.get_device_properties(device).total_memory for device in devices)


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
