"""Procedures as methods: without a step, as settings, in a method's metrics, resumed as a process is."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import tiny_model, tiny_rows, tiny_tokenizer, tiny_trainer

from hf_unlearn.data.encoding import TextFormat, encode_row
from hf_unlearn.data.example import DataBundle, Example, RowSet
from hf_unlearn.errors import RequestError
from hf_unlearn.registry import part_name
from hf_unlearn.robust import ROBUST
from hf_unlearn.stages.train import train_method
from hf_unlearn.trainer import UnlearnConfig, UnlearnTrainer
from hf_unlearn.trainer.parts import epochs_of_run

BASE = {
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "max_steps": 6,
    "save_strategy": "steps",
    "save_steps": 2,
    "use_cpu": True,
    "disable_tqdm": True,
}
GRIDS = ["nf4"]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def run(target, folder, **changes):
    forget, retain = tiny_rows("forget", 8), tiny_rows("retain", 6)
    bundle = DataBundle(forget=RowSet(forget, forget), retain=RowSet(retain, retain))
    settings = {**BASE, **changes}
    return train_method(target, folder / "out", folder / "work", bundle, TextFormat(), settings, 3, "float32")


EDIT = {"robust": [{"name": "grom", "layers": 1}], "max_steps": 0, "save_strategy": "no"}


def test_a_method_without_a_step(tmp_path, target):
    metrics = run(target, tmp_path, **EDIT, retain_loss_type="none")
    assert metrics["steps"] == 0
    assert set(metrics["parts"]) == {"grom"}
    assert "loss/forget" not in metrics
    json.dumps(metrics)
    before, after = (load_file(folder / "model.safetensors") for folder in (target, tmp_path / "out"))
    assert [name.rpartition(".mlp.")[2] for name in before if not torch.equal(before[name], after[name])] == [
        "down_proj.weight"
    ]


def test_scaling_an_edit_needs_no_training_either(tmp_path, target):
    scaling = {"name": "delta-scaling", "grids": GRIDS}
    metrics = run(target, tmp_path, **{**EDIT, "robust": [*EDIT["robust"], json.dumps(scaling)]})
    assert set(metrics["parts"]) == {"grom", "delta-scaling"}
    assert metrics["parts"]["delta-scaling"]["tried"]


@pytest.mark.parametrize("robust", [[], ["sure"], [{"name": "delta-scaling", "grids": GRIDS}]])
def test_nothing_at_all_is_refused(tmp_path, robust):
    with pytest.raises(RequestError, match="max_steps is 0, and no part of the method acts without training"):
        UnlearnConfig(output_dir=str(tmp_path), max_steps=0, robust=robust)


@pytest.mark.parametrize(
    "changes",
    [
        {"robust": [{"name": "layered-folds", "folds": 2}]},
        {"robust": [{"name": "delta-scaling", "grids": GRIDS}]},
        {"robust": [{"name": "low-rank", "rank": 2}]},
        {"robust": ["task-vector"], "loss_type": "nll", "retain_loss_type": "none"},
        {"robust": [{"name": "who-is-harry-potter", "learning_rate": 1e-2}], "loss_type": "nll"},
        {"robust": [{"name": "undo", "unlearn_steps": 3}]},
        {"robust": [{"name": "fo-zo", "steps": 1}, "frag"], "retain_loss_type": "nll", "optim": "signsgd"},
        {"robust": ["blade"], "loss_type": "clamped-entropy", "retain_loss_type": "nll"},
        {"robust": [{"name": "layered-folds", "folds": 2}, {"name": "undo", "unlearn_steps": 4}, "low-rank"]},
    ],
    ids=lambda changes: "+".join(part if isinstance(part, str) else part["name"] for part in changes["robust"]),
)
def test_a_killed_process_ends_as_an_uninterrupted_one(tmp_path, target, monkeypatch, changes):
    whole = run(target, tmp_path / "whole", **changes)
    original = UnlearnTrainer.training_step

    def dying(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(UnlearnTrainer, "training_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run(target, tmp_path / "killed", **changes)
    resumed = run(target, tmp_path / "killed", **changes)
    first, second = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("whole", "killed"))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert {**whole, "seconds": 0} == {**resumed, "seconds": 0}
    # killed at the very end: what is done after the last step is done again, and comes out the same
    shutil.rmtree(tmp_path / "killed" / "out")
    again = run(target, tmp_path / "killed", **changes)
    third = load_file(tmp_path / "killed" / "out" / "model.safetensors")
    assert [name for name in first if not torch.equal(first[name], third[name])] == []
    assert {**whole, "seconds": 0} == {**again, "seconds": 0}


def test_parts_that_tell_nothing_are_not_among_the_metrics(tmp_path, target):
    assert "parts" not in run(target, tmp_path, robust=["sure"], max_steps=1)


@pytest.mark.parametrize("spec", ["sure", {"name": "sure", "percentile": 5}, '{"name": "sure", "percentile": 5}'])
def test_names_of_parts(spec):
    assert part_name(spec) == "sure"


def test_every_procedure_says_what_it_is():
    for name in ("layered-folds", "delta-scaling", "undo", "task-vector", "who-is-harry-potter", "grom"):
        entry = ROBUST.get(name)
        assert entry.summary and entry.paper
        assert entry.value.__doc__ and "Cost:" in entry.value.__doc__
        part = entry.value()
        assert {key: getattr(part, key) for key in entry.defaults} == {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.defaults.items()
        }


@pytest.mark.parametrize(("settings", "epochs"), [({"max_steps": 6}, 3), ({"max_steps": -1}, 3)])
def test_epochs_of_a_run(tmp_path, settings, epochs):
    args = UnlearnConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, use_cpu=True, **settings)
    assert epochs_of_run(args, 8) == epochs
    args.max_steps, args.gradient_accumulation_steps = 3, 2
    assert epochs_of_run(args, 8) == 3


def test_rows_know_their_group():
    row = Example("a", "w1 w2", " w3", "fact", "family")
    assert encode_row(row, tiny_tokenizer(), TextFormat(), eos=True).group == "family"


def test_what_is_measured_at_the_end_is_the_true_labels(tmp_path):
    part = {"name": "who-is-harry-potter", "learning_rate": 1e-2}
    trainer = tiny_trainer(tmp_path, robust=[part], loss_type="nll", max_steps=1)
    trainer.train()
    assert all(row.labels is not None for row in trainer.train_dataset.forget)
    assert all(row.labels is None for row in trainer.training_context(resuming=False).forget_rows)
