"""GPT-QModel, which transformers loads GPTQ and AWQ files with: imported without its output, run without a compiler.

Its plain layers compile their unpacking with ``torch.compile`` at the first forward, once per shape: some 20 seconds
of a scoring that takes two. Unpacking without it gives the same weights. On a GPU the library would choose among
kernels that compile themselves and take 16-bit types only: there the plain layers are asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..runtime.log_filters import kept_root_logger

METHODS = ("gptq", "awq")
_WORKERS = "GPTQMODEL_CPU_WORKERS"


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drop what the library prints (tables and bars on both streams). Errors are raised, not printed."""
    for name in ("tokenicer", "optimum"):
        logging.getLogger(name).setLevel(logging.ERROR)
    dropped = io.StringIO()
    with contextlib.redirect_stdout(dropped), contextlib.redirect_stderr(dropped):
        yield


def import_quietly() -> None:
    """Import the library, with the number of workers that it needs on small machines.

    By default it takes half of the cores, and fails if that is one.
    """
    if (os.cpu_count() or 1) < 4:
        os.environ.setdefault(_WORKERS, "2")
    with silent(), kept_root_logger():
        import gptqmodel  # noqa: F401
        from logbar import LogBar

        LogBar.shared().setLevel("ERROR")
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")


def import_before_peft() -> None:
    """Import the library as above where it is installed: peft does so for any adapter, with a banner."""
    if importlib.util.find_spec("gptqmodel") is not None:
        with contextlib.suppress(ImportError):  # peft goes on without it, or says what is wrong with it
            import_quietly()


def loading_arguments(folder: Path | str) -> dict[str, Any]:
    """What ``from_pretrained`` is given for a folder, besides its type; nothing unless it is a GPTQ or AWQ folder."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        method = config["quantization_config"]["quant_method"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a Hub id, another format, or a folder that from_pretrained will complain of
    if method not in METHODS:
        return {}
    import_quietly()
    if not torch.cuda.is_available():
        return {}
    from transformers import AwqConfig, GPTQConfig

    from .._compat import AwqBackend

    warnings.filterwarnings("ignore", message="You passed `quantization_config`")
    if method == "awq":
        return {"quantization_config": AwqConfig(backend=AwqBackend.TORCH_AWQ)}
    return {"quantization_config": GPTQConfig(config["quantization_config"]["bits"], backend="gptq_torch")}


def run_eagerly(model: nn.Module) -> None:
    """Undo the compiled unpacking of every layer. Call it before the first forward."""
    for module in model.modules():
        module.__dict__.pop("dequantize_weight", None)
