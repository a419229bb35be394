"""What a training step was to cost beside common code, set before the code was written, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pages import table

MASK_TARGET = 20
"""How many times faster SURE's row mask was to be."""

_HEAVY = "weights, gradients and Adam are most of it"


@dataclass(frozen=True)
class Target:
    """Shares of what the other side takes.

    Attributes:
        time: Of a step's time, at most.
        memory: Of its peak memory, at most.
        left_of_time: Why no less, shown where it is missed.
        left_of_memory: Why no less, shown where it is missed.
    """

    time: float
    memory: float
    left_of_time: str = ""
    left_of_memory: str = ""


_TWO_PASSES = Target(
    0.60,
    0.60,
    "the other side makes two passes and has no reference: only padding and the head at prompts can be saved",
    _HEAVY,
)
TARGETS: Mapping[str, Target] = {
    "npo-nll": Target(
        0.48,
        0.60,
        "matrix products that the floor counts too",
        f"{_HEAVY}, the rest activations and logits of one pass",
    ),
    "npo-kl": Target(
        0.42, 0.55, "the same, and one more product of the head for the target's logits", "the target's logits"
    ),
    "rmu": Target(0.35, 0.50),
    "simnpo": _TWO_PASSES,
    "graddiff": _TWO_PASSES,
}


def targets_table(ratios: Mapping[str, tuple[float, float]], mask: float) -> str:
    """Reached or missed.

    Args:
        ratios: Time and memory as shares of the other side's, by method. Methods without a target are left out.
        mask: How many times faster the mask is.
    """
    rows = []
    for name, target in TARGETS.items():
        if name not in ratios:
            continue
        time, memory = ratios[name]
        left = [
            f"{what}: {why}"
            for what, why, missed in (
                ("time", target.left_of_time, _missed(time, target.time)),
                ("memory", target.left_of_memory, _missed(memory, target.memory)),
            )
            if missed and why
        ]
        rows.append([name, _cell(time, target.time), _cell(memory, target.memory), "; ".join(left)])
    faster = "reached" if round(mask) >= MASK_TARGET else "missed"
    rows.append(["mask of `sure`", f"{MASK_TARGET} times faster: {faster} ({mask:.0f})", "", ""])
    words = "Targets were set before the code was written, as shares of what the other side takes."
    return f"{words}\n\n{table(['method', 'time, target', 'memory, target', 'what is left'], rows)}"


def _missed(found: float, wanted: float) -> bool:
    return round(found, 2) > wanted  # as it is shown


def _cell(found: float, wanted: float) -> str:
    return f"{wanted:.2f}: {'missed' if _missed(found, wanted) else 'reached'} ({found:.2f})"
