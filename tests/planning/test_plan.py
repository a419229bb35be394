"""Memory by strategy, machines, strategies from files, and what would make a run fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from families import tiny_config

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.errors import RequestError
from hf_unlearn.models.loading import empty_model, empty_model_of
from hf_unlearn.planning.activations import Kept
from hf_unlearn.planning.disk import variant_bytes
from hf_unlearn.planning.machines import GIB, MACHINES, Machine, Rate, machine_named
from hf_unlearn.planning.memory import Memory, Step, Stored, training_memory
from hf_unlearn.planning.plan import _spread
from hf_unlearn.planning.shape import shape_of
from hf_unlearn.planning.strategies import devices_of
from hf_unlearn.planning.training import Devices, TrainingInput, plan_training, what_would_fit
from hf_unlearn.trainer import UnlearnConfig
from hf_unlearn.trainer.parts import steps_of_run

ACCELERATE = Path(__file__).parents[2] / "hf_unlearn" / "recipes" / "accelerate"
RATES = {"float32": Rate(1e12, 2e12), "bfloat16": Rate(1e13, 2e13)}
CARD = Machine("card", 8 * GIB, RATES, "for a test")


def rows(name: str, count: int) -> list[EncodedRow]:
    return [EncodedRow(f"{name}-{number}", (1,) * (20 + number % 5), 12) for number in range(count)]


def training_input(**settings: object) -> TrainingInput:
    model = empty_model_of(tiny_config("llama"))
    return TrainingInput("method", settings, 0, rows("forget", 16), rows("retain", 16), model)


def test_weights_gradients_and_states_are_spread_by_strategy():
    shape = shape_of(empty_model_of(tiny_config("llama")))
    step = Step(Kept(0, 0, 0, 0), labels=1, vocabulary_tensors=0, passes=1, tokens=1)
    stored = Stored(4, 4, 8, 4)
    whole = 4 * shape.parameters
    one = training_memory(shape, stored, step)
    assert (one.weights, one.gradients, one.states) == (whole, whole, 2 * whole)
    assert one.peak >= 4 * whole
    ddp = training_memory(shape, stored, step, "ddp", 4)
    assert (ddp.weights, ddp.gradients, ddp.states) == (whole, 2 * whole, 2 * whole)
    zero2 = training_memory(shape, stored, step, "zero2", 4)
    assert (zero2.weights, zero2.gradients, zero2.states) == (whole, whole / 4, whole / 2)
    zero3 = training_memory(shape, stored, step, "zero3", 4)
    assert zero3.weights == whole / 4 + 2 * 4 * shape.layer_parameters
    assert training_memory(shape, stored, step, "fsdp2", 4) == zero3
    offload = training_memory(shape, stored, step, "zero3_offload", 4)
    assert offload.states == 0 and offload.peak < zero3.peak


def test_settings_change_the_memory_that_they_are_made_for():
    devices = Devices(CARD)
    plain = plan_training(training_input(), devices).memory
    assert plan_training(training_input(optim="sgd"), devices).memory.states == 0
    assert plan_training(training_input(optim="adamw_bnb_8bit"), devices).memory.states == plain.states / 4
    assert plan_training(training_input(gradient_checkpointing=True), devices).memory.activations < plain.activations
    assert plan_training(training_input(retain_loss_type="nll"), devices).memory.caches == 0 < plain.caches
    adapters = plan_training(training_input(peft={"r": 2}), devices)
    assert adapters.memory.gradients < plain.gradients / 4 and adapters.memory.caches == 0
    half = plan_training(training_input(model_init_kwargs={"dtype": "bfloat16"}), devices).memory
    assert half.weights == plain.weights / 2


def test_the_least_change_that_fits_is_named():
    given, devices = training_input(per_device_train_batch_size=8), Devices(CARD)
    peak = plan_training(given, devices).memory.peak
    smaller = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    limit = plan_training(given, devices, smaller).memory.peak
    assert limit < peak
    told = what_would_fit(given, devices, lambda memory: memory.peak <= limit)
    assert told == "set per_device_train_batch_size: 4, gradient_accumulation_steps: 2"
    adapters = plan_training(given, devices, {"peft": {"r": 16, "target_modules": "all-linear"}}).memory
    told = what_would_fit(given, devices, lambda memory: memory.gradients <= adapters.gradients)
    assert told == "set peft: {r: 16, target_modules: all-linear}"
    assert what_would_fit(given, devices, lambda memory: False) is None


def test_more_devices_are_named_where_nothing_else_helps():
    given = training_input(peft={"r": 2}, robust=[{"name": "cycles", "rehearse_steps": 2}])
    one = Devices(CARD)
    zero3 = plan_training(given, Devices(CARD, 4, "zero3")).memory
    two = plan_training(given, Devices(CARD, 2, "zero3")).memory
    assert zero3.weights < two.weights
    told = what_would_fit(given, one, lambda memory: memory.weights <= zero3.weights)
    assert told == "use 4 devices with zero3.yaml"


@pytest.mark.parametrize(
    ("file", "strategy"),
    [
        ("one_gpu", "one"),
        ("ddp", "ddp"),
        ("zero2", "zero2"),
        ("zero3", "zero3"),
        ("zero3_offload", "zero3_offload"),
        ("fsdp2", "fsdp2"),
    ],
)
def test_accelerate_files_say_the_strategy(file, strategy):
    assert devices_of(CARD, None, str(ACCELERATE / f"{file}.yaml")).strategy == strategy


def test_machines_are_named_or_described():
    assert machine_named("H100", None, None) is MACHINES["h100"]
    given = machine_named("a100", 40, 1e14)
    assert given.memory == 40 * GIB and given.firm and given.rate("bfloat16") == Rate(5e13, 1e14)
    assert not machine_named("cpu", None, 1e9).firm  # swap space may help


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: machine_named("h10", None, None), "did you mean 'h100'"),
        (lambda: machine_named("h100", 0, None), "--memory is 0: it must be above 0"),
        (lambda: machine_named("h100", None, -1), "--flops is -1: it must be above 0"),
        (lambda: devices_of(CARD, 1, "zero3"), "say how many with --gpus"),
        (lambda: devices_of(CARD, 2, "one"), "leave one of them out"),
        (lambda: devices_of(CARD, 2, "zero4"), "--strategy zero4"),
        (lambda: devices_of(CARD, 2, "nowhere.yaml"), "cannot be read as an accelerate file"),
    ],
)
def test_bad_requests_are_one_sentence(call, words):
    with pytest.raises(RequestError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_variants_are_as_large_as_their_bits():
    shape = shape_of(empty_model_of(tiny_config("llama")))
    assert variant_bytes(shape, "bf16", 4) == 2 * shape.parameters
    ends = 4 * shape.ends
    four_bits = variant_bytes(shape, "bnb-nf4", 4) - ends
    assert 0.5 * (shape.parameters - shape.ends) <= four_bits < 0.75 * (shape.parameters - shape.ends)


def test_a_model_whose_sizes_are_not_known_has_no_plan(monkeypatch):
    model = empty_model_of(tiny_config("llama"))
    monkeypatch.setattr("hf_unlearn.planning.shape._matrices", lambda stack, config: iter(()))
    with pytest.raises(RequestError, match="a model of this kind has no plan"):
        shape_of(model)


def test_experts_are_all_kept_and_few_are_met():
    shape = shape_of(empty_model_of(tiny_config("mixtral")))
    experts = 3 * 4 * 3 * 64 * 160  # layers, experts, matrices
    assert shape.parameters > experts and shape.body < experts


def test_a_model_that_is_scored_over_several_devices_has_its_weights_shared_out():
    whole = Memory(weights=800, gradients=0, states=0, activations=30, logits=20, caches=0, peak=850)
    assert _spread(whole, 4) == Memory(200, 0, 0, 30, 20, 0, 250)


@pytest.mark.parametrize("sizes", [{"hidden_size": None}, {"hidden_size": "wide"}, {"num_attention_heads": 0}])
def test_a_config_without_a_size_is_one_sentence(tmp_path, sizes):
    (tmp_path / "config.json").write_text(json.dumps({**tiny_config("llama").to_dict(), **sizes}))
    with pytest.raises(RequestError, match=r"has a config\.json that cannot be used: ") as refusal:
        empty_model(tmp_path)
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


def test_more_processes_than_rows_make_one_step_of_an_epoch(tmp_path):
    """Three rows on eight processes: some repeat a row, and nobody waits for a batch that never comes."""
    settings = UnlearnConfig(
        str(tmp_path), per_device_train_batch_size=2, num_train_epochs=5, max_steps=-1, use_cpu=True
    )
    assert [steps_of_run(settings, 3, processes) for processes in (1, 2, 8)] == [10, 5, 5]
