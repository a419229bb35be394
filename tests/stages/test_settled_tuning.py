"""``tuning: auto`` of a run: one decision for all its models, on every machine that it is resumed on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console
from transformers import LlamaConfig

from hf_unlearn.attacks.composed import OrderedAttack
from hf_unlearn.attacks.prune import Prune
from hf_unlearn.attacks.relearn import Relearn
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.data.encoding import EncodedRow, TextFormat
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.models.loading import empty_model_of
from hf_unlearn.planning.machines import Machine
from hf_unlearn.recipe.plain import plain_attacks
from hf_unlearn.runtime.jobs import Workers
from hf_unlearn.runtime.progress import Progress
from hf_unlearn.stages import settled_tuning, single_model
from hf_unlearn.stages.context import Subject
from hf_unlearn.stages.settled_tuning import decisions, settle_tuning
from hf_unlearn.stages.single_model import SingleModel, SingleRun
from hf_unlearn.stages.units import RUN_FILE

GPU = Machine("card", 1 << 40, {}, "for a test")
SMALL = replace(GPU, memory=6 << 20)
"""Adapters and the model fit, all states of the model do not."""
AUTO = {"rtt": RTT(tuning="auto", folds=2), "prune": Prune()}


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=1
    )
    return empty_model_of(config)


@pytest.fixture(scope="module")
def settle(model):
    bundle = make_planted(PlantedSpec(forget=10, retain=4, holdout=0, practice=2, generic=2, first_year=1960))

    def call(attacks, machine, before=None):
        return settle_tuning(
            attacks, bundle, lambda: model, lambda row: EncodedRow(row.id, (1,) * 8, 1), machine, before or {}
        )

    return call


def test_all_weights_where_they_fit_and_adapters_where_not(settle):
    settled, told = settle(AUTO, GPU)
    assert settled == {"rtt": RTT(folds=2), "prune": Prune()}
    assert len(told) == 1
    assert str(told[0]).startswith("attack.rtt.tuning: auto is full fine-tuning: it takes about")
    settled, told = settle(AUTO, SMALL)
    assert settled["rtt"].tuning == "lora" and settled["rtt"].lora_rank in (128, 64, 32, 16)
    rank = settled["rtt"].lora_rank
    assert f"auto is LoRA of rank {rank} on all linear layers: full fine-tuning takes about" in str(told[0])
    assert "of the device's 6.0 MiB" in told[0].why


def test_a_recipe_that_leaves_nothing_open_is_not_looked_at(settle):
    asked = {"rtt": RTT(folds=2), "prune": Prune()}
    assert settle_tuning(asked, None, None, None, SMALL, {}) == (asked, [])


def test_a_folder_keeps_what_it_was_begun_with(settle):
    """On a larger and on a smaller machine; ``full`` is what every folder of an earlier version has."""
    small, told = settle(AUTO, SMALL)
    begun = plain_attacks(small, None)
    again, said = settle(AUTO, GPU, begun)
    assert again == small and said[0].why == "as in the part of this run that is there"
    assert said[0].decision == told[0].decision, "a report says the same, whether its run was resumed or not"
    assert not any(unit in said[0].decision for unit in ("MiB", "GiB", "device", "there"))
    earlier = plain_attacks({"rtt": RTT(folds=2)}, None)
    assert settle(AUTO, SMALL, earlier)[0]["rtt"] == RTT(folds=2)
    added = {**AUTO, "relearn": Relearn(examples=2, batch_size=16, tuning="auto")}
    settled, _ = settle(added, SMALL, earlier)
    assert (settled["rtt"].tuning, settled["relearn"].tuning) == ("full", "lora")


def test_what_is_kept_of_a_single_models_folder_is_enough(settle):
    asked = {**AUTO, "relearn": Relearn(examples=2)}
    small, _ = settle(asked, SMALL)
    kept = decisions(small, asked)
    assert kept == {"rtt": {"tuning": "lora", "lora_rank": small["rtt"].lora_rank, "optimizer": "adamw"}}
    assert settle(asked, GPU, kept)[0] == small


def test_what_no_device_can_hold_is_shared_by_the_processes_and_kept_so(model):
    bundle = make_planted(PlantedSpec(forget=10, retain=4, holdout=0, practice=2, generic=2, first_year=1960))
    asked = {
        "rtt": RTT(tuning="auto", folds=2),
        "then": OrderedAttack("rtt", RTT(tuning="auto", folds=2), then="bnb-nf4"),
    }

    def settle(machine, before, processes):
        row = EncodedRow("row", (1,) * 8, 1)
        return settle_tuning(asked, bundle, lambda: model, lambda _: row, machine, before, processes)

    least = replace(GPU, memory=int(2.4 * (1 << 20)))
    settled, told = settle(least, {}, 8)
    assert (settled["rtt"].sharded, settled["then"].settings.sharded) == (True, False)
    assert "sharded over all processes: full fine-tuning takes about" in str(told[0])
    assert told[0].why.endswith("and adapters do not fit it either") and told[1].why.endswith(
        "not sure that even this fits"
    )
    kept = decisions(settled, asked)
    assert kept["rtt"]["sharded"] is True and "sharded" not in kept["then"]
    assert settle(GPU, kept, 1)[0] == settled
    assert settle(GPU, plain_attacks(settled, None), 1)[0]["rtt"] == settled["rtt"]


def test_the_folder_of_a_single_model_keeps_its_decisions(model, tmp_path, monkeypatch):
    monkeypatch.setattr(single_model, "empty_model", lambda folder: model)
    monkeypatch.setattr(single_model, "load_tokenizer", lambda folder: None)
    monkeypatch.setattr(single_model, "encode_row", lambda row, *_, **__: EncodedRow(row.id, (1,) * 8, 1))
    subject = Subject("model", "method", tmp_path / "model", "digest")
    bundle = make_planted(PlantedSpec(forget=10, retain=4, holdout=0, practice=2, generic=2, first_year=1960))

    def settled(machine: Machine, *, keeps: bool) -> RTT:
        monkeypatch.setattr(single_model, "this_machine", lambda **_: machine)
        quiet = Progress(Console(quiet=True))
        context = SingleModel(tmp_path, bundle, Workers(0), quiet, AUTO, TextFormat(), ("probability",))
        single_model.claim_for_attacks(tmp_path, "mine")
        single_model.settle_attacks(SingleRun(context, [subject], None, is_main=True), keeps=keeps)
        return context.attacks["rtt"]

    assert settled(GPU, keeps=False).tuning == "full"  # only asked what it would cost
    small = settled(SMALL, keeps=True)
    assert small.tuning == "lora" and settled(GPU, keeps=True) == small
    assert json.loads((tmp_path / RUN_FILE).read_text())["attacked"] == "mine"


def test_8_bit_states_are_kept_too(settle):
    kept = {"relearn": {"tuning": "lora", "lora_rank": 16, "optimizer": "adamw_8bit"}}
    settled, told = settle({"relearn": Relearn(examples=2, tuning="auto")}, GPU, kept)
    assert settled["relearn"].steps.optimizer == "adamw_8bit" and "AdamW with 8-bit states" in str(told[0])
    again, _ = settle({"relearn": Relearn(examples=2, tuning="auto")}, GPU, plain_attacks(settled, None))
    assert again == settled


def test_the_smallest_device_of_a_launch_decides_for_all(settle, monkeypatch):
    monkeypatch.setattr(settled_tuning, "gather", lambda memory: [memory, SMALL.memory, None])
    assert settle(AUTO, GPU)[0]["rtt"].tuning == "lora"
    monkeypatch.setattr(settled_tuning, "gather", lambda memory: [None, None])
    settled, told = settle(AUTO, replace(GPU, memory=None))
    assert settled["rtt"].tuning == "full" and told[0].why.endswith("no limit of memory is known")


def test_an_attack_under_its_own_name_keeps_its_order(settle):
    mine = OrderedAttack("rtt", RTT(tuning="auto", folds=2), after="bnb-nf4")
    settled, _ = settle({"mine": mine}, SMALL)
    assert (settled["mine"].after, settled["mine"].settings.tuning) == ("bnb-nf4", "lora")


def test_states_that_a_machine_cannot_hold_are_refused_before_anything_is_done(settle, monkeypatch):
    processor = replace(GPU, accelerator=False)
    with pytest.raises(RequestError, match=r"attack\.rtt\.optimizer is paged_adamw_8bit, .*use adamw_8bit"):
        settle({"rtt": RTT(optimizer="paged_adamw_8bit")}, processor)
    settle({"rtt": RTT(optimizer="paged_adamw_8bit")}, GPU)
    settle({"rtt": RTT(optimizer="adamw_8bit")}, processor)
    monkeypatch.setattr("hf_unlearn.attacks.tuning.version", lambda package: "0.49.2")
    with pytest.raises(EnvironmentFailure, match=r"bitsandbytes 0\.49\.2 steps on a GPU only: install"):
        settle({"rtt": RTT(optimizer="adamw_8bit")}, processor)
