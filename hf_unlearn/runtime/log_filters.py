"""Log lines and progress bars of back ends that say nothing a user could act on."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterator

# Said by bitsandbytes on every int8 product, and on machines whose optional fast kernel is not installed; by torchao
# for each of its GPU libraries when torch has no CUDA, and of torch about it.
HARMLESS = (
    ("bitsandbytes.autograd._functions", "inputs will be cast"),
    ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"),
    ("torchao", "Failed to load"),
    ("torch.utils._pytree", "is now natively supported by torch.compile"),
    # Of the layers that GPTQ files are loaded into, which have no loss.
    ("transformers.modeling_utils", "`loss_type=None` was set"),
    # Whenever it is imported, which accelerate does if it is installed.
    ("DeepSpeed", "Setting accelerator to CPU"),
)

_LIBRARY_BARS = (
    "Applying quantization config",
    "Compressing model",
    "Decompressing model",
    "Dispatching model",
    "Converting and de-quantizing GGUF tensors",
    "Writing model shards",
)


class _Drop(logging.Filter):
    """Drops log records that contain a text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self.text not in record.getMessage()


def drop_harmless_lines() -> None:
    """Silence them. Imports no back end, so that it can be done before one says the first; can be repeated."""
    for logger_name, text in HARMLESS:
        logger = logging.getLogger(logger_name)
        if not any(isinstance(item, _Drop) and item.text == text for item in logger.filters):
            logger.addFilter(_Drop(text))


def quiet_backends() -> None:
    """Silence log lines and progress bars of the back ends that say nothing a user could act on. Can be repeated."""
    from transformers.utils import logging as transformers_logging

    drop_harmless_lines()
    transformers_logging.disable_progress_bar()


@contextlib.contextmanager
def kept_root_logger() -> Iterator[None]:
    """Undo what a library that is imported inside does to the root logger, which is the program's own.

    Otherwise every module's log lines are shown from then on, whatever the user chose.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in [each for each in root.handlers if each not in handlers]:
            root.removeHandler(handler)
        root.setLevel(level)


@contextlib.contextmanager
def hidden_library_bars() -> Iterator[None]:
    """Hide the bars that libraries draw without an option to turn them off; pass on all else."""
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            yield
    finally:
        for line in re.split(r"[\r\n]+", caught.getvalue()):
            if line.strip() and not any(title in line for title in _LIBRARY_BARS):
                print(line, file=sys.stderr)
