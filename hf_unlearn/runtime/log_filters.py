"""Log lines of back ends that say nothing a user could act on."""

from __future__ import annotations

import logging

# Said by bitsandbytes on every int8 product, and on machines whose optional fast kernel is not installed; by torchao
# for each of its GPU libraries beside a torch without CUDA, and of torch about it.
HARMLESS = (
    ("bitsandbytes.autograd._functions", "inputs will be cast"),
    ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"),
    ("torchao", "Failed to load"),
    ("torch.utils._pytree", "is now natively supported by torch.compile"),
    # Of the layers that GPTQ files are loaded into, which have no loss.
    ("transformers.modeling_utils", "`loss_type=None` was set"),
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
