"""Seconds that work takes however small the model is: for tiny models they are most of the time.

Processor seconds on one core, measured on a run whose models are so small that they cost nothing
(``benchmarks/fixed_costs.py``, figures in ``benchmarks/costs.md``). They are counted from once, spread over the worker
processes, to twice, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping

START = 10.0
"""Imports of a process, and the checks before anything is started."""

STEP = 0.02
"""An optimizer step: calls of Python and of kernels."""

UNITS: Mapping[str, float] = {
    "models": 0.3,
    "train": 0.4,
    "export": 0.3,
    "evaluate": 0.4,
    "attack": 0.1,
    "verify": 0.5,
    "publish": 3.5,
}
"""One unit of a stage: a model is built or trained, a folder exported or scored, a job of an attack done, a model
judged, everything published."""

Seconds = tuple[float, float]


def added(first: Seconds, second: Seconds) -> Seconds:
    """Both, one after the other."""
    return first[0] + second[0], first[1] + second[1]


def fixed_seconds(stage: str, units: float, workers: int, steps: float = 0) -> Seconds:
    """The least and the most that a stage takes beside its operations.

    Args:
        stage: One of :data:`UNITS`.
        units: How many of them.
        workers: Processes that share the units.
        steps: Optimizer steps in all of them.
    """
    once = units * UNITS[stage] + steps * STEP
    return once / workers, 2 * once


def started_seconds(workers: int) -> Seconds:
    """The least and the most until the first unit: worker processes import the same once more, all at once."""
    return START * (1 if workers == 1 else 1.5), 2 * START
