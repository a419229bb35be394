"""Further sets of the gate must be kept as the retain set must: what was destroyed beside it is no pass."""

from __future__ import annotations

import dataclasses

from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.scores import FactScores, ScoreKey, ScoreTable
from hf_unlearn.verification.verdict import judge

GATE = Gate(metrics=("probability",), formats=(), attacks=(), draws=500)


def table_with(world: float) -> ScoreTable:
    table = ScoreTable()
    levels = {"target": (0.95, 0.95, 0.9), "never_knew": (0.02, 0.95, 0.9), "method": (0.02, 0.94, world)}
    for model, means in levels.items():
        for split, mean in zip(("forget", "retain", "world_facts"), means, strict=True):
            values = {f"{split}{n}": mean + (n % 5 - 2) / 200 for n in range(60)}
            table.add(
                ScoreKey(model, "identity", split, "probability"), FactScores(values, {name: name for name in values})
            )
    return table


def test_a_further_set_that_was_destroyed_fails_the_model():
    gate = dataclasses.replace(GATE, utility_sets=("world_facts",))
    judgement = judge(table_with(world=0.3), "method", gate)
    (row,) = [row for row in judgement.utility if row.kind == "kept_score"]
    assert judgement.status == "failed"
    assert (row.metric, row.split, row.status) == ("world_facts/probability", "world_facts", "failed")
    assert abs(row.ratio - 0.3 / 0.9) < 1e-9
    assert any("world_facts probability is 0.30" in reason for reason in judgement.reasons)


def test_a_further_set_that_was_kept_is_judged_and_passes():
    gate = dataclasses.replace(GATE, utility_sets=("world_facts",))
    judgement = judge(table_with(world=0.88), "method", gate)
    assert judgement.status == "passed"
    assert [row.status for row in judgement.utility if row.kind == "kept_score"] == ["passed"]


def test_sets_outside_the_gate_are_only_reported():
    judgement = judge(table_with(world=0.3), "method", GATE)
    assert judgement.status == "passed"
    assert not [row for row in judgement.utility if row.kind == "kept_score"]
