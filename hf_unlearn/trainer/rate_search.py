"""The learning rate that is right for a model, found before the first step: as large as repair can make up for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import RequestError
from ..runtime.files import write_atomically

logger = logging.getLogger(__name__)

RATES = tuple(4e-3 / 2**halvings for halvings in range(11))
"""What is tried: from 4e-3, too much for models of a million parameters, down to 4e-6."""
MOST_TRIALS = 4
"""Rounds that a search of :data:`RATES` by halves takes at most."""
RESTORED = 0.97
"""Least probability per token of the retain set's answers after a round, over what it was before."""
MOST_ROWS = 256
"""Retain rows that are looked at."""
FOUND_FILE = "learning_rate.json"
"""Beside the checkpoints, so that a run that goes on need not search again."""


@dataclass(frozen=True)
class FoundRate:
    """What a search found.

    Attributes:
        rate: The learning rate.
        tried: Probability per token of retain answers after a round over what it was before, by rate.
        floating_point_ops: Of all rounds that were tried, as transformers counts them.
    """

    rate: float
    tried: Mapping[str, float] = field(default_factory=dict)
    floating_point_ops: int = 0

    def write(self, folder: Path) -> None:
        """Keeps it for a run that goes on."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FOUND_FILE, json.dumps(asdict(self), indent=1))


def read_found(folder: Path) -> FoundRate | None:
    """What an earlier start of the run found; ``None`` if it found nothing."""
    try:
        return FoundRate(**json.loads((folder / FOUND_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # a search takes minutes: where its result cannot be read, it is made again


@dataclass(frozen=True)
class Tried:
    """One round at one rate.

    Attributes:
        kept: Probability per token of retain answers (geometric mean) over what it was before the round.
        floating_point_ops: Of the round.
    """

    kept: float
    floating_point_ops: int


def find_rate(try_rate: Callable[[float], Tried], rates: Sequence[float] = RATES) -> FoundRate:
    """The largest rate after which one round of unlearning and repair has restored the retain set.

    The larger the rate, the more a round takes away, so the rates are halved, as in a search of a sorted list: four
    rounds at most for :data:`RATES`.

    Args:
        try_rate: Makes one round from the original weights and takes it back.
        rates: From the largest to the smallest.

    Raises:
        RequestError: Not even the smallest rate is restored.
    """
    tried: dict[str, float] = {}
    operations = 0
    first, end = 0, len(rates)  # the largest rate that is restored is in rates[first:end], if there is one
    while first < end:
        middle = (first + end) // 2
        found = try_rate(rates[middle])
        tried[f"{rates[middle]:g}"] = found.kept
        operations += found.floating_point_ops
        logger.info("learning rate %g: %.3f of the retain set is restored", rates[middle], found.kept)
        if found.kept >= RESTORED:
            end = middle
        else:
            first = middle + 1
    if first == len(rates):
        least = min(rates)
        raise RequestError(
            f"no learning rate was found: even after a round at {least:g}, repair restores only "
            f"{tried[f'{least:g}']:.2f} of the retain set ({RESTORED} is needed): give more retain rows, or set "
            "learning_rate yourself"
        )
    return FoundRate(rates[first], tried, operations)
