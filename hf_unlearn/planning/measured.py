"""What the same work took before, on this machine: it is better than any rate that is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .fixed import Seconds


@dataclass(frozen=True)
class Measured:
    """Seconds that finished work of a run took.

    Attributes:
        source: The run's folder.
        steps: Of one optimizer step, by the name of the method or control; what happens between steps included.
        units: Of one unit, by its stage; of an attack's jobs by ``attack NAME``.
    """

    source: str
    steps: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, float] = field(default_factory=dict)

    def training(self, name: str, steps: int) -> Seconds | None:
        """What a training of so many steps takes; ``None`` where none of that name was measured."""
        each = self.steps.get(name)
        return None if each is None else (each * steps, each * steps)

    def work(self, kind: str, units: int, workers: int) -> Seconds | None:
        """What units of a kind take, shared by workers; ``None`` where none was measured."""
        each = self.units.get(kind)
        return None if each is None else (each * units / workers, each * units / workers)
