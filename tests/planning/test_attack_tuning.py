"""``tuning: auto`` as a function of a device's bytes, and what makes an attack fit that does not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from families import tiny_config
from transformers import LlamaConfig

from hf_unlearn.attacks.finetune import FinetuneGeneric
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.attacks.relearn import Relearn
from hf_unlearn.attacks.retraining_settings import RetrainingSettings
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.attacks.tuning import Tuning
from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.loading import empty_model_of
from hf_unlearn.planning.attack_memory import AttackedShape, longest_row
from hf_unlearn.planning.attack_tuning import adapters, attack_mend, choose
from hf_unlearn.planning.shape import shape_of

AUTO = RTT(tuning="auto", learning_rates=(1e-4, 1e-3))
PEAKS = {
    ("full", 16, "adamw"): 100,
    ("lora", 32, "adamw"): 60,
    ("lora", 16, "adamw"): 50,
    ("lora", 16, "adamw_8bit"): 45,
    ("lora", 16, "paged_adamw_8bit"): 40,
}
"""Bytes of a job by what is trained; the narrowest layer of the model is 32 wide."""
PAGED = "LoRA of rank 16 on all linear layers, AdamW with paged 8-bit states"
FOLDER = ", in a new --output-dir if this one was begun"


@pytest.fixture(scope="module")
def model():
    return empty_model_of(tiny_config("llama"))


def named(settings: RetrainingSettings) -> tuple[str, int, str]:
    return settings.tuning, settings.lora_rank, settings.steps.optimizer


def peak(settings: RetrainingSettings) -> int:
    return PEAKS[named(settings)] * settings.batch_size // 16


@pytest.mark.parametrize(
    ("limit", "expected", "fits"),
    [
        (None, ("full", 16, "adamw"), True),
        (115, ("full", 16, "adamw"), True),
        (114, ("lora", 32, "adamw"), True),
        (69, ("lora", 32, "adamw"), True),
        (68, ("lora", 16, "adamw"), True),
        (57, ("lora", 16, "adamw_8bit"), True),
        (46, ("lora", 16, "paged_adamw_8bit"), True),
        (45, ("lora", 16, "paged_adamw_8bit"), False),
    ],
)
def test_the_strongest_attacker_that_fits_with_something_to_spare(model, limit, expected, fits):
    chosen = choose(AUTO, model, peak, limit, accelerator=True)
    assert (named(chosen.settings), chosen.fits, chosen.full) == (expected, fits, 100)
    assert chosen.settings.learning_rates == ((1e-4, 1e-3) if expected[0] == "full" else (3e-4, 3e-3))


@pytest.mark.parametrize(
    ("limit", "expected", "sharded", "fits"),
    [
        (58, ("lora", 16, "adamw"), False, True),
        (45, ("full", 16, "adamw"), True, True),
        (28, ("lora", 32, "adamw"), True, True),
        (17, ("lora", 16, "adamw"), True, True),
        (13, ("lora", 16, "adamw"), True, False),
    ],
)
def test_processes_share_a_job_only_where_none_fits_a_device(model, limit, expected, sharded, fits):
    """Each of four processes takes a quarter and what all of them need."""

    def shared(settings: RetrainingSettings) -> int:
        return peak(settings) // 4 if settings.sharded else peak(settings)

    chosen = choose(AUTO, model, shared, limit, accelerator=False, processes=4)
    assert (named(chosen.settings), chosen.settings.sharded, chosen.fits) == (expected, sharded, fits)
    assert choose(AUTO, model, shared, limit, accelerator=False).settings.sharded is False
    lion = choose(RTT(tuning="auto", optimizer="lion"), model, lambda _: 100, limit, accelerator=False, processes=4)
    assert (lion.settings.sharded, lion.fits) == (False, False)


def test_sharding_is_named_where_it_mends(model):
    def shared(settings: RetrainingSettings) -> int:
        return peak(settings) // 4 if settings.sharded else peak(settings)

    told = attack_mend(
        "mine", Relearn(tuning="lora", lora_rank=16, batch_size=16), model, shared, 20, accelerator=False, processes=4
    )
    assert told == "set attack.mine.sharded: true"


def test_a_sharded_job_takes_its_share_of_states_and_rows(model):
    attacked = AttackedShape(model, shape_of(model), True, 4)
    whole, shares = (attacked.memory(replace(AUTO, tuning="full", sharded=each), 32)[0] for each in (False, True))
    assert shares.states == pytest.approx(whole.states / 4, abs=1)
    assert shares.gradients == pytest.approx(whole.gradients / 4, abs=1)
    assert shares.activations == pytest.approx(whole.activations / 4, rel=0.01)
    assert whole.weights / 4 < shares.weights < whole.weights
    alone = AttackedShape(model, shape_of(model), True)
    assert alone.memory(replace(AUTO, tuning="full", sharded=True), 32)[0] == whole


def test_states_are_not_paged_without_a_gpu_and_other_optimizers_stay(model):
    assert named(choose(AUTO, model, peak, 1, accelerator=False).settings) == ("lora", 16, "adamw")
    lion = RTT(tuning="auto", optimizer="lion")
    assert [named(each)[1:] for each in adapters(lion, model, accelerator=True)] == [(32, "lion"), (16, "lion")]


def test_no_rank_is_above_the_narrowest_layer():
    narrow = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=1,
    )  # fmt: skip
    ranks = [each.lora_rank for each in adapters(AUTO, empty_model_of(narrow), accelerator=False)]
    assert ranks == [8]
    one_layer = RTT(tuning="auto", lora_targets=("q_proj",))
    assert [each.lora_rank for each in adapters(one_layer, empty_model_of(narrow), accelerator=False)] == [32, 16]


def test_what_fits_in_full_is_what_a_recipe_says_with_full():
    for attack in (RTT, Relearn):
        assert attack(tuning="auto").settled(Tuning()) == attack()


def test_every_choice_takes_less_of_a_device_than_the_one_before(model):
    attacked = AttackedShape(model, shape_of(model), accelerator=True)
    small_steps = replace(AUTO, batch_size=1)
    tried = [small_steps.settled(Tuning()), *adapters(small_steps, model, accelerator=True)]
    memory = [attacked.memory(each, 4)[0] for each in tried]
    assert len(memory) == 5
    assert all(less.peak < more.peak for more, less in pairwise(memory))
    weights = attacked.shape.parameters
    assert memory[0].states == 8 * weights and memory[4].states == 0
    assert memory[3].states == pytest.approx(memory[2].states * 2.03125 / 8, abs=1)
    on_a_processor = AttackedShape(model, attacked.shape, accelerator=False)
    assert on_a_processor.memory(tried[0], 4)[0].peak == memory[0].peak + 4 * weights  # the copy to restore from
    assert on_a_processor.memory(tried[1], 4)[0] == memory[1]


@pytest.mark.parametrize(
    ("settings", "limit", "words"),
    [
        (RTT(), 100, None),
        (RTT(), 99, f"set attack.mine.tuning: auto (LoRA of rank 32 on all linear layers here){FOLDER}"),
        (RTT(), 46, f"set attack.mine.tuning: auto ({PAGED} here){FOLDER}"),
        (RTT(), 23, "set attack.mine.tuning: auto, and lower attack.mine.batch_size to 8"),
        (RTT(tuning="lora"), 29, "lower attack.mine.batch_size to 8"),
        (RTT(tuning="lora"), 2, None),
        (Relearn(tuning="lora", batch_size=2), 4, "lower attack.mine.batch_size to 1"),
        (Prune(), 1, None),
    ],
)  # fmt: skip
def test_the_least_that_makes_an_attack_fit_is_named(model, settings, limit, words):
    assert attack_mend("mine", settings, model, peak, limit, accelerator=True) == words


def test_half_the_bytes_of_weights_come_last(model):
    def in_two_bytes(settings: RetrainingSettings) -> int:
        return 1 if settings.steps.dtype == "bfloat16" else 10

    told = attack_mend("rtt", RTT(tuning="lora"), model, in_two_bytes, 5, accelerator=True)
    assert told == "set attack.rtt.dtype: bfloat16 and attack.rtt.batch_size: 1"
    assert attack_mend("relearn", Relearn(tuning="lora"), model, in_two_bytes, 5, accelerator=True) is None


def test_the_longest_row_is_one_that_is_trained_on():
    bundle = make_planted(PlantedSpec(forget=10, retain=4, holdout=0, practice=2, generic=2, first_year=1960))
    generic = {row.id for row in bundle.generic.train}

    def encode(row):
        return EncodedRow(row.id, (1,) * (50 if row.id in generic else 9), 1)

    assert longest_row(FinetuneGeneric(), bundle, encode) == 50
    assert longest_row(RTT(), bundle, encode) == longest_row(Prune(), bundle, encode) == 9
