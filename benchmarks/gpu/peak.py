"""How fast this device multiplies matrices of bfloat16, and what its maker says."""

from __future__ import annotations

import time

import torch

from hf_unlearn.planning.machines import MACHINES


def bf16_peak(device: str, size: int) -> dict[str, float]:
    """Operations a second: ``measured`` here, and ``sheet`` where the GPU is one whose data sheet is known."""
    figures = {"measured": measured(size, device)}
    if device == "cuda":
        words = torch.cuda.get_device_name().lower().split()
        # A plan's high rate is half of the data sheet's peak.
        sheet = [2 * machine.rates["bfloat16"].high for name, machine in MACHINES.items() if name in words]
        figures |= {"sheet": sheet[0]} if sheet else {}
    return figures


def measured(size: int, device: str, repeats: int = 20) -> float:
    """Operations a second of the quickest of several products of two square matrices."""
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
