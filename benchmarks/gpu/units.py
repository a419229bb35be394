"""What is looked at, in order: each unit is one process that prints its figures as JSON in its last line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORMATS = {
    "formats": ("bf16", "bnb-nf4", "bnb-int8", "ct-fp8"),
    "formats-calibrated": ("gptq-int4-g128", "awq-int4-g128"),
}
METHODS = ("npo-nll", "npo-kl", "rmu", "auto")
"""The other side has all but `auto`, which is held against its step of NPO + KL."""


@dataclass(frozen=True)
class Unit:
    """One process.

    Attributes:
        name: Of the unit, and of its file.
        what: For people.
        command: What is started, from the root.
        seconds: What it takes on a GPU, about; it is not begun with less time left.
    """

    name: str
    what: str
    command: Sequence[str]
    seconds: int


def units(device: str, tiny: bool, out: Path) -> list[Unit]:
    """All of them.

    Args:
        device: ``cuda`` or ``cpu``.
        tiny: Sizes with which everything takes seconds.
        out: Folder for models that several units read.
    """
    size = ["--tiny"] if tiny else []
    found = [
        Unit("install", "what is installed", _module("install", "--device", device, *size), 30),
        Unit("tests", "tests on this device", _module("tests"), 60),
        *(Unit(f"step-{method}", f"a step of {method}", _step(device, tiny, method), 90) for method in METHODS),
    ]
    for name, formats in FORMATS.items():
        words = [*formats, "--folder", str(out / "models"), *size]
        found.append(Unit(name, f"{' and '.join(formats)}", _module("formats", *words), 150))
    found.append(Unit("generation", "continuations in batches", _module("generation", *size), 60))
    found.append(Unit("large-lora", "8B with LoRA", _module("large", *size), 120))
    found.append(Unit("large-zero3", "8B under ZeRO-3, offloaded", _module("large", "--sharded", *size), 240))
    return found


def _module(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.gpu.{name}", *words]


def _step(device: str, tiny: bool, method: str) -> list[str]:
    """Both sides of ``trainer_cost.py``; without ``tiny`` a model of 1.3 billion weights, rows of 512 tokens."""
    large = ["--layers", "16", "--width", "2048", "--vocabulary", "128256", "--length", "512", "--steps", "8"]
    small = ["--layers", "4", "--width", "64", "--vocabulary", "512", "--length", "32", "--batch", "2", "--steps", "4"]
    steps = ["--steps", "21"] if method == "auto" else []  # whole rounds, rehearsal and repair included
    words = ["--device", device, "--bf16", *(small if tiny else large), *steps, "--child", "both", method]
    return [sys.executable, str(ROOT / "benchmarks" / "trainer_cost.py"), *words]
