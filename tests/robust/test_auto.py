"""The stack by one name: sizes in passes over the forget set, a last phase of healing, settings that go with it."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_run import tiny_model, tiny_trainer, weights
from transformers import TrainerCallback

from hf_unlearn.data.encoding import EncodedRow
from hf_unlearn.data.pairing import PairedRows
from hf_unlearn.errors import RequestError
from hf_unlearn.recipe.method_settings import completed, make_config
from hf_unlearn.robust.auto import AUTO_SETTINGS, Auto, frozen_ends

SIZES = {
    **{"unlearn_passes": 1.0, "heal_passes": 1.5, "rehearse_passes": 0.5, "last": 0.3},
    **{"unlearn_least": 1, "rehearse_least": 1},
}


def auto_trainer(folder, **settings):
    """Eight forget rows, four a step: a pass is two steps."""
    part = {"name": "auto", **SIZES}
    return tiny_trainer(folder, tiny_model(), **{"robust": [part], "loss_type": "ga", "max_steps": 20, **settings})


def test_phases_follow_from_the_size_of_the_forget_set():
    cycles = Auto(**SIZES).sized(steps=200, epochs=10.0)  # 20 steps a pass
    assert (cycles.unlearn_steps, cycles.heal_steps, cycles.rehearse_steps) == (20, 30, 10)
    assert cycles.rounds == 2  # 140 of 200 steps are before the last phase, a round takes 50


def test_a_longer_run_has_more_rounds_of_the_same_size():
    short, long = (Auto(**SIZES).sized(steps, steps / 20) for steps in (200, 800))
    assert (short.unlearn_steps, short.heal_steps) == (long.unlearn_steps, long.heal_steps)
    assert (short.rounds, long.rounds) == (2, 11)


def test_few_retain_rows_are_not_gone_through_too_often():
    def healing(retain):
        rows = PairedRows([row("f", n) for n in range(40)], [row("r", n) for n in range(retain)], retain_per_forget=2)
        part = Auto(**SIZES)
        assert part.arrange(rows, 10.0) is rows
        return part.sized(steps=200, epochs=10.0).heal_steps  # a step has two forget rows and four retain rows

    assert healing(retain=200) == 30
    assert healing(retain=40) == round(1.55 * 40 / 4)


def row(name, number):
    return EncodedRow(f"{name}-{number}", (1, 2, 3), 1)


def test_without_a_rehearsal_there_is_none():
    assert Auto(**{**SIZES, "rehearse_passes": 0.0}).sized(200, 10.0).rehearse_steps == 0


def test_a_rehearsal_needs_no_whole_weights():
    assert not Auto().needs_whole_weights
    assert Auto().uses_trained_weights and not Auto(rehearse_passes=0).uses_trained_weights


def test_a_run_that_is_too_short_is_refused_with_the_length_that_would_do(tmp_path):
    with pytest.raises(RequestError, match=r"auto: the run has 10 steps, and two rounds .* take 14: raise"):
        auto_trainer(tmp_path, max_steps=10).train()


class Rates(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.seen.append(optimizer.param_groups[0]["lr"])


def test_in_the_last_phase_only_the_retain_term_goes_on_and_the_rate_falls_to_nothing(tmp_path):
    trainer = auto_trainer(tmp_path, learning_rate=1e-3, robust=[{"name": "auto", **SIZES, "level": False}])
    rates, terms = Rates(), []
    trainer.add_callback(rates)
    part = trainer.parts[0]
    trainer.train()
    # Rounds of 2 + 3 steps; 14 of 20 steps hold two of them, ten steps only heal.
    assert part.outcome()["rounds"] == 2
    terms = [part.term_weights(step).forget for step in range(20)]
    assert terms == [1, 1, 0, 0, 0] * 2 + [0] * 10
    assert rates.seen[:10] == pytest.approx([1e-3] * 10)
    assert rates.seen[10:] == pytest.approx([1e-3 * (10 - step) / 10 for step in range(10)])


@pytest.mark.parametrize("step", [6, 13])
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path, step):
    """Cut one step into a phase of unlearning, and in the last phase."""
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 30}
    whole = auto_trainer(tmp_path / "whole", **settings)
    whole.train()
    resumed = auto_trainer(tmp_path / "whole", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    for name, value in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], value), name
    assert resumed.parts[0].outcome() == whole.parts[0].outcome()


def test_one_word_in_a_recipe_brings_what_goes_with_it():
    assert completed({"robust": "auto", "learning_rate": 1e-4}) == {
        **AUTO_SETTINGS,
        "robust": ["auto"],
        "learning_rate": 1e-4,
    }


def test_what_a_method_says_itself_stays():
    own = {"robust": [{"name": "auto", "last": 0.2}], "loss_type": "npo", "num_train_epochs": 5, "learning_rate": 1e-4}
    assert completed(own) == {**AUTO_SETTINGS, **own}
    assert "num_train_epochs" not in completed({"robust": "auto", "max_steps": 100})


def test_other_parts_bring_nothing():
    assert completed({"robust": ["sure"], "max_steps": 3}) == {"robust": ["sure"], "max_steps": 3}
    assert completed({"robust": "sure"}) == {"robust": ["sure"]}
    assert completed({"max_steps": 3}) == {"max_steps": 3}


def test_a_method_with_auto_can_be_made_and_a_typo_is_refused():
    config = make_config({"robust": "auto", "learning_rate": 1e-3}, Path("unused"), 0)
    assert (config.loss_type, config.retain_per_forget) == ("ga", AUTO_SETTINGS["retain_per_forget"])
    assert isinstance(config.build_parts()[0], Auto)
    with pytest.raises(RequestError, match="did you mean 'auto'"):
        make_config({"robust": "auot", "learning_rate": 1e-3}, Path("unused"), 0)


LORA = {"r": 2, "target_modules": ["q_proj"]}


@pytest.mark.parametrize(
    ("more", "frozen"),
    [
        ({}, ["embed_tokens", "lm_head"]),
        ({"modules_to_save": ["embed_tokens"]}, ["lm_head"]),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, []),
        ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, []),
    ],
)
def test_adapters_that_leave_out_embeddings_or_head_are_warned_about(tmp_path, caplog, more, frozen):
    model = get_peft_model(tiny_model(), LoraConfig(**{**LORA, **more}))
    assert [name.rpartition(".")[2] for name in frozen_ends(model)] == frozen
    part = {"name": "auto", **SIZES}
    tiny_trainer(tmp_path, model, robust=[part], loss_type="ga", max_steps=20).train()
    said = [record.getMessage() for record in caplog.records if record.name == "hf_unlearn.robust.auto"]
    assert len(said) == bool(frozen)
    if frozen:
        assert f"modules_to_save: [{', '.join(frozen)}]" in said[0]


def test_a_model_trained_whole_is_not_warned_about():
    assert frozen_ends(tiny_model()) == []


WRONG = [{"unlearn_passes": 0}, {"heal_passes": -1}, {"heal_retain_passes": 0}, {"rehearse_passes": -1}, {"last": 1.0}]


@pytest.mark.parametrize("settings", WRONG)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match="auto: "):
        Auto(**settings)
