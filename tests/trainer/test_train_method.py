"""One method from folder to folder: settings, resuming, what comes out."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import tiny_model, tiny_rows, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import DataBundle, RowSet
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe.method_settings import make_config
from hf_unlearn.stages.train import train_method
from hf_unlearn.trainer import UnlearnTrainer
from hf_unlearn.trainer.checkpoints import last_whole_checkpoint, seal_checkpoint

SETTINGS = {
    "loss_type": "npo",
    "retain_loss_type": "kl",
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": "1e-3",
    "lr_scheduler_type": "linear",
    "weight_decay": 0.1,
    "save_strategy": "steps",
    "save_steps": 2,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def bundle() -> DataBundle:
    forget, retain = tiny_rows("forget", 10), tiny_rows("retain", 7)
    return DataBundle(forget=RowSet(forget, forget), retain=RowSet(retain, retain))


def run(target, folder, bundle, **changes):
    settings = {**SETTINGS, **changes}
    return train_method(target, folder / "out", folder / "work", bundle, TextFormat(), settings, 3, "float32")


def stop_after(monkeypatch, step: int) -> None:
    """Dies as a process does, in the middle of the training step after ``step``."""
    original = UnlearnTrainer.compute_loss

    def dying(self, *args, **kwargs):
        if self.state.global_step >= step:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(UnlearnTrainer, "compute_loss", dying)


@pytest.mark.parametrize("extra", [{}, {"robust": [{"name": "sure", "percentile": 60}]}, {"control": "bin_hidden"}])
@pytest.mark.parametrize("step", [3, 5])
def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, target, bundle, monkeypatch, extra, step):
    whole = run(target, tmp_path / "whole", bundle, **extra)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run(target, tmp_path / "killed", bundle, **extra)
    assert not (tmp_path / "killed" / "out").exists()
    assert last_whole_checkpoint(tmp_path / "killed" / "work").name == f"checkpoint-{step - 1}"
    resumed = run(target, tmp_path / "killed", bundle, **extra)
    first = load_file(tmp_path / "whole" / "out" / "model.safetensors")
    second = load_file(tmp_path / "killed" / "out" / "model.safetensors")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert {**whole, "seconds": 0} == {**resumed, "seconds": 0}
    # and training did something
    original = load_file(target / "model.safetensors")
    assert any(not torch.equal(original[name], first[name]) for name in first)


def test_killed_after_the_last_step_nothing_is_trained_again(tmp_path, target, bundle):
    whole = run(target, tmp_path, bundle)
    shutil.rmtree(tmp_path / "out")
    assert {**run(target, tmp_path, bundle), "seconds": 0} == {**whole, "seconds": 0}
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_metrics_and_files(tmp_path, target, bundle):
    metrics = run(target, tmp_path, bundle)
    assert metrics["steps"] == 9  # three epochs of ten rows, four rows a step
    assert metrics["seconds"] > 0
    names = ["kl/retain", "logps/forget", "logps/retain", "loss/forget", "loss/retain"]
    assert metrics["stepping"] == "fp32"
    told = {"steps", "seconds", "stepping", "floating_point_ops", "end", "fall"}
    assert sorted(set(metrics) - told) == names
    assert metrics["end"] == "chat"  # a model of random weights ends nothing
    assert metrics["fall"]["rows"] == 10 and metrics["fall"]["ends"] == 0.0 and metrics["fall"]["answers"] > 0
    assert metrics["floating_point_ops"] > 0
    AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".bin", ".pt", ".pth")]


def test_weights_are_stored_as_asked(tmp_path, target, bundle):
    train_method(
        target, tmp_path / "out", tmp_path / "work", bundle, TextFormat(), {**SETTINGS, "max_steps": 1}, 0, "bfloat16"
    )
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        seal_checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-14").mkdir()
    (tmp_path / "checkpoint-14" / "trainer_state.json").write_text('{"global_st')
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]
    assert last_whole_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"los_type": "npo"}, "did you mean 'loss_type'"),
        ({"loss_type": "ngo"}, "did you mean 'npo'"),
        ({"retain_loss_type": "kll"}, "did you mean 'kl'"),
        ({"robust": ["shure"]}, "did you mean 'sure'"),
        ({"robust": [{"name": "sure", "percentil": 5}]}, "did you mean 'percentile'"),
        ({"robust": [{"percentile": 5}]}, "'name'"),
        ({"robust": ["{oops"]}, "JSON"),
        ({"control": "bin_hiden"}, "did you mean 'bin_hidden'"),
        ({"control": {"name": "bin_hidden", "grid": "nf5"}}, "did you mean 'nf4'"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"per_device_train_batch_size": 2.5}, "whole number"),
        ({"disable_dropout": "yes"}, "true or false"),
        ({"retain_weight": -1}, "retain_weight"),
        ({"retain_per_forget": 0}, "retain_per_forget"),
        ({"truncation": "left"}, "truncation"),
        ({"reference": "disk"}, "reference"),
        ({"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy"),
        ({"output_dir": "elsewhere"}, "output_dir"),
        ({"seed": 1}, "seed"),
        ({"beta": 0}, "beta"),
        ({"loss_kwargs": {"gamma": 1}}, "no parameter 'gamma'"),
        ({"lr_scheduler_type": "bumpy"}, "bumpy"),
        ({"save_strategy": "sometimes"}, "sometimes"),
    ],
)
def test_bad_settings_are_named(tmp_path, settings, message):
    with pytest.raises(RequestError, match=message):
        make_config(settings, tmp_path, 0)


def test_numbers_written_as_text_are_numbers(tmp_path):
    config = make_config({"learning_rate": "3e-4", "max_steps": 10.0, "beta": "0.5"}, tmp_path, 7)
    assert (config.learning_rate, config.max_steps, config.seed) == (3e-4, 10, 7)
    assert config.build_forget_loss().beta == 0.5
    assert config.model_init_kwargs == {"dtype": "float32"}


def test_parts_from_a_command_line(tmp_path):
    part = make_config({"robust": ['{"name": "sure", "percentile": 75}']}, tmp_path, 0).build_parts()[0]
    assert part.percentile == 75.0
