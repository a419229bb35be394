"""Formats a model can be published in. Each is folder to folder, and the result loads with stock ``from_pretrained``.

``FORMATS.get(name).value()`` is a :class:`~hf_unlearn.quantization.base.Format`; :func:`export_format` uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..registry import Registry

if TYPE_CHECKING:
    from .base import ExportInfo, Format

FORMATS: Registry[type[Format]] = Registry("format", "hf_unlearn.quantization")


def export_format(name: str, source: Path, target: Path) -> ExportInfo:
    """Write the model in ``source`` to ``target`` in the format called ``name``.

    Args:
        name: A name in :data:`FORMATS`.
        source: A ``save_pretrained`` folder with weights that are not quantized.
        target: A folder that does not exist yet, or is empty. It is gone again if anything fails.

    Returns:
        What was written, and how far the re-loaded file is from the weights it should hold.

    Raises:
        RequestError: An unknown name, or a source this format cannot be made from.
        MissingExtraError: The format's library is not installed.
        EnvironmentFailure: The file that was written does not give back the weights that were quantized.
    """
    return FORMATS.get(name).value().export(source, target)


__all__ = ["FORMATS", "export_format"]
