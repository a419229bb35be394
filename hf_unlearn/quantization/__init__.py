"""Formats a model can be published in. Each is folder to folder, and the result loads with stock ``from_pretrained``.

``FORMATS.get(name).value()`` is a :class:`~hf_unlearn.quantization.base.Format`; :func:`export_format` uses it.
A format that is calibrated takes the choice of its text after an ``@``: ``gptq-int4-g128@forget-aware``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..registry import Entry, Registry, suggest

if TYPE_CHECKING:
    from .base import ExportInfo, Format
    from .calibration import Calibration

# What people call the usual size of a family, or the usual member of several.
ALIASES = {
    **{family: f"{family}-g128" for family in ("gptq-int3", "gptq-int4", "gptq-int8", "awq-int4")},
    **{family: f"{family}-g128" for family in ("rtn-int4", "rtn-int3", "rtn-int2")},
    "rtn-int8": "rtn-int8-channel",
    "fp8": "ct-fp8",
    "int8": "ct-int8",
}
CALIBRATION_KINDS = ("generic", "forget-aware")


class FormatRegistry(Registry["type[Format]"]):
    """Formats by name, by a shorter name, and with their choice of calibration text."""

    def require(self, name: str) -> None:
        """Refuse a name of nothing, without the modules.

        Raises:
            RequestError: There is no such format, or the choice after ``@`` is not one of this format.
        """
        short, at, kind = full_name(name).partition("@")
        super().require(short)
        if at:
            _check_kind(short, kind, calibrated=self.described()[short]["calibrated"])

    def get(self, name: str) -> Entry[type[Format]]:
        """The entry called ``name``.

        Raises:
            RequestError: There is none, or the choice after ``@`` is not one of this format.
        """
        self.require(name)
        short, at, kind = full_name(name).partition("@")
        entry = super().get(short)
        return _calibrated(entry, kind) if at else entry


def full_name(name: str) -> str:
    """A format's name with its group size: ``gptq-int4`` is ``gptq-int4-g128``. Other names stay as they are."""
    short, at, kind = name.partition("@")
    return ALIASES.get(short, short) + at + kind


def _check_kind(short: str, kind: str, *, calibrated: bool) -> None:
    name = f"{short}@{kind}"
    if not calibrated:
        raise RequestError(f"there is no format called {name!r}: {short} needs no calibration text")
    if kind not in CALIBRATION_KINDS:
        raise RequestError(
            f"there is no format called {name!r}: the part after @ must be the calibration "
            f"text, {suggest(kind, list(CALIBRATION_KINDS))}"
        )


def _calibrated(entry: Entry[type[Format]], kind: str) -> Entry[type[Format]]:
    name = f"{entry.name}@{kind}"
    value = _with_kind(entry.value, name, kind)
    return replace(entry, name=name, value=value, summary=f"{entry.summary}; {kind} calibration")


@functools.cache
def _with_kind(value: type[Format], name: str, kind: str) -> type[Format]:
    return type(value.__name__, (value,), {"name": name, "calibration_kind": kind, "__doc__": value.__doc__})


# What a list says of a format, and what tells whether it can be made here.
_FACTS = ("bits", "group_size", "package", "versions", "companions", "extra", "cpu", "published", "calibrated")
FORMATS = FormatRegistry("format", "hf_unlearn.quantization", facts=_FACTS)


def calibration_kinds(formats: Sequence[str], default: str) -> dict[str, str]:
    """Which text each format is calibrated on, by the format's name; others are left out.

    Args:
        formats: Names of formats.
        default: The choice for names without one.
    """
    values = {name: FORMATS.get(name).value for name in formats}
    return {name: value.calibration_kind or default for name, value in values.items() if value.calibrated}


def export_format(name: str, source: Path, target: Path, calibration: Calibration | None = None) -> ExportInfo:
    """Write the model in ``source`` to ``target`` in the format called ``name``.

    Args:
        name: A name in :data:`FORMATS`.
        source: A ``save_pretrained`` folder with weights that are not quantized.
        target: A folder that does not exist yet, or is empty. It is removed if anything fails.
        calibration: The text for a format that is calibrated; others ignore it.

    Returns:
        What was written, and how far the re-loaded file is from the weights it should hold.

    Raises:
        RequestError: An unknown name, a source this format cannot be made from, or calibration text that is missing
            or too short.
        MissingExtraError: The format's library is not installed.
        EnvironmentFailure: The library has a version this format does not work with, or the file that was written
            does not give back the weights that were quantized.
    """
    return FORMATS.get(name).value().export(source, target, calibration)


__all__ = ["ALIASES", "CALIBRATION_KINDS", "FORMATS", "calibration_kinds", "export_format", "full_name"]
