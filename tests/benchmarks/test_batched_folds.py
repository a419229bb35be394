"""Jobs that share their passes end with the weights that the package ends with, one job at a time."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.limits import padding_id

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
STEPS = 4


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = set(sys.modules)
    yield importlib.import_module("batched_folds")
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == SCRIPTS:
            del sys.modules[name]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_each_of_three_jobs_ends_as_it_does_alone(folds, tuning, tmp_path, monkeypatch):
    """In float64, with other rows and lengths, another rate and another clipping for each job, and a shorter batch."""
    monkeypatch.setattr(folds, "FOLDS", 2)
    bundle = make_planted(PlantedSpec(forget=11, retain=1, holdout=0, practice=0, generic=2))
    cached = folds.make_model(tmp_path, bundle, folds.Size(16, 24, 2, 2, 1))
    cached.model.double()
    cached.model.lm_head.weight.mul_(20)  # gradients large enough to be clipped
    cached.keep_weights()
    norms: list[float] = []

    def noted(weights, norm):
        norms.append(clip(weights, norm).item())

    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    settings = RTT(folds=2, batch_size=4, tuning=tuning, lora_rank=4, warmup_steps=3)
    jobs = folds.make_jobs(bundle, settings, cached, 3, STEPS)
    assert [job.rate for job in jobs] == [1e-3, 1e-3, 3e-4]
    assert jobs[0].batches == jobs[2].batches != jobs[1].batches
    assert len({len(job.batches[-1]) for job in jobs}) == 2
    jobs[1] = folds.FoldJob(jobs[1].texts, jobs[1].batches, 5e-3)
    alone = []
    for job in jobs:
        alone.append(folds.train_by_package(settings, cached, job)[0])
        cached.restore()
    assert len(norms) == 3 * STEPS
    assert min(norms) > 1.0
    padding = padding_id(cached.tokenizer, cached.model)
    if tuning == "lora":
        first = folds.first_adapters(settings, cached.model)
        together = folds.train_adapters(cached.model, first, jobs, padding, settings.warmup_steps)
        names = {f"base_model.model.{name}.default.weight": name for name in first}
    else:
        first = {name: weight.detach().clone() for name, weight in cached.model.named_parameters()}
        together = folds.train_whole(cached.model, jobs, padding, settings.warmup_steps)
        names = {name: name for name in first}
    assert together.values.dtype == torch.float64
    for number, found in enumerate(alone):
        assert found.keys() == names.keys()
        for name, weight in found.items():
            stacked = together.weights[names[name]][number]
            moved = (weight - first[names[name]]).abs().max()
            assert moved > 1e-4, name
            assert torch.allclose(stacked, weight, rtol=0, atol=1e-9), name
    assert not torch.allclose(together.values[0], together.values[2], atol=1e-4)


def test_blocks_are_filled_up_with_rows_that_have_no_label(folds):
    row = folds.EncodedRow("row", (5, 6, 7), 1)
    batch = folds.in_one_batch([[row, row], [row]], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7]] * 3 + [[0, 0, 0]]
    assert batch["attention_mask"][-1].tolist() == [1, 0, 0]
    assert batch["labels"][-1].tolist() == [-100] * 3
