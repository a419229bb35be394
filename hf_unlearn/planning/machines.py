"""Machines that a plan can be made for: their memory, and the rate that training really gets out of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ..errors import RequestError
from ..models.sizes import machine_memory
from ..registry import suggest

GIB = 1 << 30


@dataclass(frozen=True)
class Rate:
    """Floating-point operations a second: what small and what large matrices get."""

    low: float
    high: float


@dataclass(frozen=True)
class Machine:
    """One device.

    Attributes:
        name: What it is called.
        memory: Bytes; ``None`` if there is no limit to hold a plan against.
        rates: By type of the numbers that are computed with.
        source: Where the rates come from.
        accelerator: Whether it is one, and not a processor.
        firm: Whether more memory than there is ends a run: a processor may have swap space.
        here: Whether it is the one that this process runs on, at its own rates.
    """

    name: str
    memory: int | None
    rates: Mapping[str, Rate]
    source: str
    accelerator: bool = True
    firm: bool = True
    here: bool = False

    def rate(self, dtype: str) -> Rate:
        """For numbers of a type; types of 16 bits are computed at one rate."""
        return self.rates["bfloat16" if dtype in ("bfloat16", "float16") else "float32"]


def computed_in(bf16: bool) -> str:
    """The type that a training of float32 weights is computed in."""
    return "bfloat16" if bf16 else "float32"


_SHARE = (0.2, 0.5)


def _card(name: str, gib: int, sixteen_bits: float, float32: float) -> Machine:
    """From the peaks of a data sheet, without sparsity, in operations a second."""
    rates = {
        kind: Rate(*(peak * share for share in _SHARE))
        for kind, peak in (("bfloat16", sixteen_bits), ("float32", float32))
    }
    return Machine(name, gib * GIB, rates, "20 to 50 % of the data sheet's peak")


MACHINES: Mapping[str, Machine] = {
    machine.name: machine
    for machine in (
        _card("b200", 180, 2250e12, 75e12),
        _card("h200", 141, 989e12, 67e12),
        _card("h100", 80, 989e12, 67e12),
        _card("a100", 80, 312e12, 19.5e12),
        _card("a100-40", 40, 312e12, 19.5e12),
        _card("l40s", 48, 362e12, 91.6e12),
        _card("a10g", 24, 70e12, 31e12),
        _card("l4", 24, 121e12, 30.3e12),
        _card("rtx4090", 24, 165e12, 82.6e12),
        _card("t4", 16, 65e12, 8.1e12),
    )
}
"""Peaks of the makers' data sheets: dense 16-bit numbers with float32 sums, and float32 without tensor cores."""

THIS = "this"


def machine_named(name: str | None, memory_gib: float | None, flops: float | None) -> Machine:
    """The machine of a plan.

    Args:
        name: One of :data:`MACHINES`, ``cpu``, or ``this`` (the default): what this process would train on.
        memory_gib: Memory of one device in GiB, in place of what is known.
        flops: Operations a second that training gets, in place of what is known.

    Raises:
        RequestError: There is no such machine, or a number is not above 0.
    """
    for key, value in (("--memory", memory_gib), ("--flops", flops)):
        if value is not None and not value > 0:
            raise RequestError(f"{key} is {value:g}: it must be above 0")
    named = (name or THIS).lower()
    if named not in (*MACHINES, THIS, "cpu"):
        raise RequestError(f"--machine {name}: {suggest(named, [THIS, 'cpu', *MACHINES])}")
    machine = MACHINES[named] if named in MACHINES else this_machine(measured=flops is None, cpu=named == "cpu")
    if memory_gib is not None:
        machine = replace(machine, memory=round(memory_gib * GIB), firm=True)
    if flops is not None:
        rate = Rate(flops / 2, flops)
        machine = replace(machine, rates={"bfloat16": rate, "float32": rate}, source="as given", here=False)
    return machine


def this_machine(*, measured: bool = True, cpu: bool = False) -> Machine:
    """What this process would train on.

    Args:
        measured: Whether a few matrices are multiplied to time it; for a limit alone that is not needed.
        cpu: Whether the processor is meant even where there is an accelerator.
    """
    if torch.cuda.is_available() and not cpu:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        rates = _timed(torch.device("cuda")) if measured else {}
        return Machine(str(properties.name), properties.total_memory, rates, "measured here", here=True)
    rates = _timed(torch.device("cpu")) if measured else {}
    return Machine("cpu", machine_memory(), rates, "measured on one core", accelerator=False, firm=False, here=True)


def _timed(device: torch.device) -> dict[str, Rate]:
    """A sixth to four fifths of what square matrices get, by type."""
    if device.type == "cpu":
        plain, half = (
            _best(256, dtype, device) * torch.get_num_threads() for dtype in (torch.float32, torch.bfloat16)
        )
        # With instructions for it products of bfloat16 are several times as fast, and then no longer most of a step.
        return {
            "float32": _shares(plain),
            "bfloat16": Rate(min(plain, half) / 6, max(plain * 0.8, half * 0.5)),
        }
    return {
        name: _shares(_best(4096, dtype, device))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }


def _shares(full: float) -> Rate:
    return Rate(full / 6, full * 0.8)


def _best(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of the quickest of many products, on one thread: other work on the machine slows some."""
    left, right = (torch.ones((size, size), dtype=dtype, device=device) for _ in range(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return 2 * size**3 / min(_seconds(left, right) for _ in range(24))
    finally:
        torch.set_num_threads(threads)


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(left, right)
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
