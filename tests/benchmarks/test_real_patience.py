"""What giving up loses, on scores with a dip before the gain."""

from __future__ import annotations

import pytest

from benchmarks.real.patience import epochs_seen, rows_of
from hf_unlearn.evaluation.records import ScoredRow, write_records

DIP = (0.060, 0.050, 0.030, 0.015, 0.10, 0.20)


@pytest.fixture
def attack(tmp_path):
    job = tmp_path / "fold0-lr0.0001"
    job.mkdir()
    for epoch, score in enumerate(DIP):
        write_records(job / f"epoch{epoch}.jsonl", records(score))
    return tmp_path


def records(score: float) -> list[ScoredRow]:
    values = {"probability": score, "mc_accuracy": 0.25}
    return [
        ScoredRow("r", "f", "g", "forget", values=values),
        ScoredRow("h", "h", "h", "holdout", values={"probability": 1.0, "mc_accuracy": 1.0}),
    ]


def test_patience_counts_epochs_without_gain_after_the_first():
    epochs = [records(score) for score in DIP]
    assert [epochs_seen(epochs, patience) for patience in (1, 2, 3, 4, 0)] == [2, 3, 4, 6, 6]


def test_what_is_lost_is_told_beside_what_it_costs(attack):
    by_probability, by_options = rows_of(attack)
    assert by_probability[:4] == ["probability", "1", "0.060", "0.200"]
    assert by_probability[4:8] == ["0.140 (1.0)", "0.140 (2.0)", "0.140 (3.0)", "0.000 (5.0)"]
    assert by_options[4] == "0.000 (1.0)"
