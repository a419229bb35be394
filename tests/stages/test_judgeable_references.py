"""An attack that could be judged by nothing the forget set has is refused before training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hf_unlearn.attacks.probe import LinearProbe
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.errors import RequestError
from hf_unlearn.stages import baselines
from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.scores import FactScores, ScoreKey, ScoreTable


def context_of(**attacks) -> SimpleNamespace:
    gate = Gate(metrics=("probability", "mc_accuracy"), formats=(), attacks=tuple(attacks), draws=200)
    return SimpleNamespace(recipe=SimpleNamespace(gate=gate, seed=0, attack=attacks))


@pytest.fixture
def without_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Target and never-knew model as they are scored on rows that have no options."""
    table = ScoreTable()
    for model, level in (("target", 0.9), ("never_knew", 0.1)):
        values = {f"f{number}": level + number % 5 / 100 for number in range(40)}
        table.add(
            ScoreKey(model, "identity", "forget", "probability"), FactScores(values, {fact: fact for fact in values})
        )
    monkeypatch.setattr(baselines, "_scores", lambda *arguments: table)


def test_a_probe_that_only_a_missing_metric_could_judge_is_refused(without_options: None) -> None:
    with pytest.raises(RequestError, match=r"'probe' measures none of the gate's metrics \(probability\)"):
        baselines.check_baselines(context_of(prune=Prune(), probe=LinearProbe()), None, [])


def test_an_attack_that_something_is_left_for_is_not(without_options: None) -> None:
    baselines.check_baselines(context_of(prune=Prune()), None, [])
