"""FRAG: the cosines by hand in float64, and what a run reports."""

import math

import pytest
import torch
from tiny_run import assert_same, tiny_trainer, weights

from hf_unlearn.robust.frag import alignments


def test_alignments_by_hand_over_two_layers():
    torch.manual_seed(0)
    layers = [
        (torch.randn(3, 4), torch.randn(3, 4), torch.rand(4) + 0.1, torch.rand(4) + 0.1),
        (torch.randn(2, 3), torch.randn(2, 3), torch.rand(3) + 0.1, torch.rand(3) + 0.1),
    ]
    moved, important, kept = [], [], []
    for before, after, forget, retain in layers:
        for i in range(before.shape[0]):
            for j in range(before.shape[1]):
                moved.append((float(after[i, j]) - float(before[i, j])) ** 2)
                important.append(abs(float(before[i, j])) * float(forget[j]) / (float(retain[j]) + 1e-6))
                kept.append(abs(float(before[i, j])) * float(retain[j]) / (float(forget[j]) + 1e-6))

    def cosine(first, second):
        dot = sum(a * b for a, b in zip(first, second, strict=True))
        return dot / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))

    found = alignments(layers)
    assert found["forget"] == pytest.approx(cosine(important, moved), rel=1e-6)
    assert found["retain"] == pytest.approx(cosine(kept, moved), rel=1e-6)
    assert found["gap"] == pytest.approx(cosine(important, moved) - cosine(kept, moved), rel=1e-5)
    assert found["length"] == pytest.approx(math.sqrt(sum(moved)), rel=1e-9)


def test_a_change_of_what_matters_for_forget_rows_is_told_from_one_of_what_matters_for_retain_rows():
    before = torch.ones(1, 4)
    forget, retain = torch.tensor([9.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 9.0])
    gaps = []
    for place in (0, 3):
        after = before.clone()
        after[0, place] = 0.0
        gaps.append(alignments([(before, after, forget, retain)])["gap"])
    assert gaps[0] > 0.9 and gaps[1] < -0.9
    assert alignments([(before, before, forget, retain)]) == {}


def test_a_run_reports_it_and_ends_with_the_same_weights(tmp_path):
    runs = [tiny_trainer(tmp_path / name, robust=robust, max_steps=2) for name, robust in (("a", []), ("b", ["frag"]))]
    before = weights(runs[0].model)
    for trainer in runs:
        trainer.train()
    after = weights(runs[0].model)
    assert_same(after, weights(runs[1].model))
    found = runs[1].parts[0].outcome()
    changed = [name for name in after if "proj" in name]
    length = math.sqrt(sum(float((after[name] - before[name]).double().square().sum()) for name in changed))
    assert found["length"] == pytest.approx(length, rel=1e-6)
    assert found["gap"] == pytest.approx(found["forget"] - found["retain"], rel=1e-9)
    assert 0 < found["forget"] < 1 and 0 < found["retain"] < 1


def test_pruning_has_a_larger_gap_than_training(tmp_path):
    gaps = {}
    for name, robust, steps in (("frp", [{"name": "frp", "share": 0.1}, "frag"], 0), ("npo", ["frag"], 4)):
        trainer = tiny_trainer(tmp_path / name, robust=robust, max_steps=steps)
        trainer.train()
        gaps[name] = trainer.parts[-1].outcome()["gap"]
    assert gaps["frp"] > gaps["npo"]
