"""A whole attack in one call, and what tests look at afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_unlearn.attacks.base import Attack, Attacked, AttackResult
from hf_unlearn.registry import Entry


def run(attack: Attack, attacked: Attacked, place: Path) -> AttackResult:
    """Every job in a folder of its own under ``place``, one after the other; the scores are those it says it has."""
    folders = {}
    for job in attack.plan(attacked.bundle):
        folders[job] = place / job
        folders[job].mkdir()
        attack.run_job(job, attacked, folders[job])
    result = attack.collect(folders, attacked.metrics)
    assert set(result.scores) == set(attack.measures(attacked.metrics))
    return result


def detail(result: AttackResult, metric: str = "probability") -> dict[str, Any]:
    """The only entry of a metric."""
    (found,) = [entry for entry in result.details if entry["metric"] == metric]
    return found


def assert_defaults_are_those_of_the_class(entry: Entry[Any]) -> None:
    """What the registry says of an attack's settings is what they are."""
    settings = entry.value()
    for key, value in entry.defaults.items():
        own = getattr(settings, key)
        assert (list(own) if isinstance(own, tuple) else own) == value
