"""Which metrics the scores of an attack have: not every attack brings back what every metric reads.

A metric is a function of a record and says ``None`` where the record lacks what it reads. So a record with what an
attack's records hold tells which metrics there will be, before anything is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..evaluation.metrics import METRICS
from ..evaluation.records import ScoredRow

if TYPE_CHECKING:
    from .base import Attack

FORWARD = ScoredRow(
    "row",
    "fact",
    "group",
    "forget",
    logps=(-0.5, -0.25, -1.0),
    hits=(True, True, False),
    choice_logps=(-1.75, -2.5),
    choice_lengths=(3, 3),
    right_choice=0,
    answer="an answer of words",
)
"""What one forward pass over a row with options gives: no generated text, no other wordings, no gradient."""

_SUGGESTED = ("probability", "extraction_strength", "mc_accuracy", "exact_match", "rouge_l")


def metrics_of(record: ScoredRow, metrics: Sequence[str]) -> tuple[str, ...]:
    """Those of these metrics that are a number of a record that holds as much as this one.

    Raises:
        RequestError: A name is not in the registry of metrics.
    """
    return tuple(name for name in metrics if METRICS.get(name).value(record) is not None)


def check_judgeable(name: str, attack: Attack, metrics: Sequence[str]) -> None:
    """Refuse a gate under which an attack could not be judged.

    Args:
        name: What the recipe calls the attack.
        attack: Its settings.
        metrics: The gate's metrics.

    Raises:
        RequestError: The attack measures none of them; names some that it does measure.
    """
    if attack.measures(metrics):
        return
    measured = attack.measures(_SUGGESTED) or attack.measures(METRICS.names())
    raise RequestError(
        f"{name!r} measures none of the gate's metrics ({', '.join(metrics)}), so that nothing could be judged under "
        f"it: add to gate.metrics what it measures ({', '.join(measured)}), or leave it out of gate.attacks"
    )
