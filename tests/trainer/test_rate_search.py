"""A learning rate that is found: the largest after which one round restores the retain set."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig
from tiny_run import tiny_model, tiny_rows, tiny_trainer

from hf_unlearn.errors import RequestError
from hf_unlearn.recipe.method_settings import completed
from hf_unlearn.trainer import UnlearnConfig
from hf_unlearn.trainer.rate_search import (
    FOUND_FILE,
    MOST_TRIALS,
    RATES,
    RESTORED,
    FoundRate,
    Tried,
    find_rate,
    read_found,
)

CYCLES = {"name": "cycles", "unlearn_steps": 2, "heal_steps": 2, "rehearse_steps": 1}


@pytest.mark.parametrize("right", range(len(RATES)))
def test_the_largest_restored_rate_is_found_in_four_rounds(right):
    asked = []

    def try_rate(rate):
        asked.append(rate)
        return Tried(RESTORED if rate <= RATES[right] else RESTORED - 0.001, 10)

    found = find_rate(try_rate)
    assert found.rate == RATES[right]
    assert len(asked) <= MOST_TRIALS and found.floating_point_ops == 10 * len(asked)
    assert set(found.tried) == {f"{rate:g}" for rate in asked}


def test_where_no_rate_is_restored_training_does_not_start():
    with pytest.raises(RequestError, match=r"even after a round at 3.90625e-06, repair restores only 0.50"):
        find_rate(lambda rate: Tried(0.5, 1))


def test_what_was_found_is_read_again(tmp_path):
    assert read_found(tmp_path) is None
    found = FoundRate(1e-3, {"0.001": 0.98}, 7)
    found.write(tmp_path / "checkpoints")
    assert read_found(tmp_path / "checkpoints") == found
    (tmp_path / FOUND_FILE).write_text("{")
    assert read_found(tmp_path) is None


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run whose rate was found."""
    folder = tmp_path_factory.mktemp("searched")
    trainer = tiny_trainer(
        folder, robust=[CYCLES], auto_find_learning_rate=True, max_steps=8, lr_scheduler_type="linear", loss_type="ga"
    )
    trainer.train()
    return folder, trainer


def test_a_run_takes_the_rate_that_was_found(searched, tmp_path):
    folder, trainer = searched
    found = trainer.found_rate
    assert found.rate in RATES and trainer.args.learning_rate == found.rate
    assert found.tried[f"{found.rate:g}"] >= RESTORED and found.floating_point_ops > 0
    assert json.loads((folder / FOUND_FILE).read_text())["rate"] == found.rate
    # The same weights as of a run that is told the rate: the trials left nothing behind.
    told = tiny_trainer(
        tmp_path, robust=[CYCLES], learning_rate=found.rate, max_steps=8, lr_scheduler_type="linear", loss_type="ga"
    )
    told.train()
    for one, other in zip(trainer.model.parameters(), told.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_trial_is_one_round_by_hand(searched, tmp_path):
    """What a trial says of a rate is what a run of one round at that rate does to the retain set."""
    _, trainer = searched
    rate, kept = next(iter(trainer.found_rate.tried.items()))
    one = {**CYCLES, "rounds": 1}
    by_hand = tiny_trainer(tmp_path, robust=[one], learning_rate=float(rate), max_steps=4, loss_type="ga")
    before = by_hand._retain_logp()
    by_hand.train()
    assert kept == pytest.approx(min(1.0, float(torch.tensor(by_hand._retain_logp() - before).exp())), rel=1e-6)


def test_weights_are_put_back_where_a_trial_fails(tmp_path, monkeypatch):
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer = tiny_trainer(tmp_path, model, robust=[CYCLES], auto_find_learning_rate=True)
    monkeypatch.setattr("hf_unlearn.trainer.rate_search.RESTORED", 1.5)
    with pytest.raises(RequestError, match="no learning rate was found"):
        trainer.train()
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


@pytest.mark.parametrize(
    "given",
    [
        {"peft_config": LoraConfig(r=2)},
        {"peft": {"r": 2}},
        {"peft": {"r": 2}, "loss_type": "rmu", "loss_kwargs": {"layer": 1}},
        {"bf16": True},
    ],
    ids=["adapters", "adapters of the settings", "adapters and a loss of some layers", "bf16"],
)
def test_a_search_leaves_the_run_as_it_would_be(given, tmp_path):
    """With adapters on the model, or a forward pass in 16 bits, too."""
    settings = {"robust": [CYCLES], "max_steps": 4, "loss_type": "ga", **given}
    found = tiny_trainer(tmp_path / "found", auto_find_learning_rate=True, **settings)
    found.train()
    assert found.found_rate is not None
    told = tiny_trainer(tmp_path / "told", learning_rate=found.found_rate.rate, **settings)
    told.train()
    for one, other in zip(found.model.parameters(), told.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_search_needs_rounds(tmp_path):
    with pytest.raises(RequestError, match="only the robust parts auto and cycles make"):
        UnlearnConfig(output_dir=str(tmp_path), auto_find_learning_rate=True)


def test_an_optimizer_that_exists_has_its_rate(tmp_path):
    from hf_unlearn.trainer import UnlearnTrainer

    model = tiny_model()
    args = UnlearnConfig(output_dir=str(tmp_path), robust=[CYCLES], auto_find_learning_rate=True, use_cpu=True)
    from tiny_run import tiny_tokenizer

    with pytest.raises(RequestError, match="an optimizer that exists"):
        UnlearnTrainer(
            model,
            args,
            tiny_rows("forget", 8),
            tiny_rows("retain", 8),
            processing_class=tiny_tokenizer(),
            optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
        )


def test_a_recipe_says_auto():
    assert completed({"learning_rate": "auto", "robust": ["cycles"]}) == {
        "robust": ["cycles"],
        "auto_find_learning_rate": True,
    }
    assert completed({"robust": "auto"})["auto_find_learning_rate"] is True
    given = completed({"robust": "auto", "learning_rate": 1e-4})
    assert given["learning_rate"] == 1e-4 and "auto_find_learning_rate" not in given
