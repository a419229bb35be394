"""The moments at which a part acts: what it is given, and what becomes of what it gives back."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hook_parts import Asks, Counts, Doubled, Shifted, parts_trainer
from safetensors.torch import load_file
from tiny_run import assert_same, logged, tiny_model, tiny_rows, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.base import TermWeights, TrainingPart
from hf_unlearn.trainer.term_passes import check_parts

SGD = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "train_sampling_strategy": "sequential"}
ACCUMULATION = [(4, 1), (2, 2), (1, 4)]


def term_by_hand(model, trainer, term, rows=4, numbers=None):
    """A term's mean over the first rows (or those of these numbers) by one float64 forward pass per row, without
    padding or any loss class."""
    exact = copy.deepcopy(model).double().requires_grad_(True)
    numbers = range(rows) if numbers is None else numbers
    items = [trainer.train_dataset[index] for index in numbers]
    encoded = [item["forget"] for item in items] if term == "forget" else [r for item in items for r in item["retain"]]
    total, tokens = 0.0, 0
    for row in encoded:
        logps = torch.log_softmax(exact(torch.tensor([row.input_ids])).logits[0], dim=-1)
        times = range(row.n_prompt, len(row.input_ids))
        total = total + sum(logps[time - 1, row.input_ids[time]] for time in times)
        tokens += len(times)
    loss = total / tokens if term == "forget" else -total / tokens
    loss.backward()
    return loss.item(), {name: value.grad for name, value in exact.named_parameters()}


def shifted(model, by):
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for value in moved.parameters():
            value.mul_(1 + by)
    return moved


def one_step(folder, *parts, batch_size=4, accumulation=1, **settings):
    """GA with NLL, 4 rows in the one step that is made."""
    defaults = {"loss_type": "ga", "retain_loss_type": "nll", "max_steps": 1, "logging_steps": 1, **SGD}
    trainer = parts_trainer(
        folder,
        *parts,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        **{**defaults, **settings},
    )
    trainer.train()
    return trainer


def assert_near(found, expected, scale=1.0):
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), scale * value, rtol=1e-3, atol=1e-6)


# ---- drawn rows ----


class Draws(TrainingPart):
    """Every step is on these forget rows."""

    def __init__(self, numbers: list[int], **settings: bool) -> None:
        self.numbers, self.counts, self.makes_views = numbers, [], settings.get("apart", False)

    def forget_rows(self, step, count):
        self.counts.append((step, count))
        return self.numbers


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (2, 2)])
def test_a_step_is_on_the_rows_that_a_part_draws(tmp_path, batch_size, accumulation, apart):
    """Their labels are what the forget loss counts, and retain rows stay those of the items whose turn it is."""
    part = Draws([6, 2, 6, 5], apart=apart)
    trainer = one_step(tmp_path, part, model=tiny_model(), batch_size=batch_size, accumulation=accumulation)
    assert part.counts == [(0, 4)]
    forget = term_by_hand(tiny_model(), trainer, "forget", numbers=part.numbers)
    retain = term_by_hand(tiny_model(), trainer, "retain")
    after = weights(trainer.model)
    for name, value in weights(tiny_model()).items():
        gradient = forget[1][name] + retain[1][name]
        torch.testing.assert_close(after[name].double(), value - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    assert logged(trainer)[0]["loss/forget"] == pytest.approx(forget[0], rel=1e-4)


def test_drawn_rows_bring_their_other_answers_and_references(tmp_path):
    """What NPO's relative, DPO, compares with is that of the same rows."""
    settings = {"loss_type": "dpo", "alternates": "other-answers"}
    drawn = one_step(tmp_path, Draws([0, 1, 2, 3]), model=tiny_model(), **settings)
    by_turn = one_step(tmp_path, model=tiny_model(), **settings)
    assert_same(weights(drawn.model), weights(by_turn.model))
    others = one_step(tmp_path, Draws([4, 5, 6, 7]), model=tiny_model(), **settings)
    assert logged(others)[0]["loss/forget"] == pytest.approx(logged(drawn)[0]["loss/forget"], rel=1e-5)  # log 2
    assert logged(others)[0]["logps/forget"] != pytest.approx(logged(drawn)[0]["logps/forget"], rel=1e-3)


# ---- views ----


@pytest.mark.parametrize(("batch_size", "accumulation"), ACCUMULATION)
def test_a_step_follows_the_weighted_mean_of_the_gradients_under_the_views(tmp_path, batch_size, accumulation):
    model = tiny_model()
    part = Shifted(forget=[(0.02, 1.0), (-0.01, 3.0)], retain=[(0.03, 5.0)])
    trainer = one_step(tmp_path, part, model=copy.deepcopy(model), batch_size=batch_size, accumulation=accumulation)
    first = term_by_hand(shifted(model, 0.02), trainer, "forget")
    second = term_by_hand(shifted(model, -0.01), trainer, "forget")
    retain = term_by_hand(shifted(model, 0.03), trainer, "retain")
    before, after = weights(model), weights(trainer.model)
    for name in before:
        gradient = first[1][name] / 4 + 3 * second[1][name] / 4 + retain[1][name]
        torch.testing.assert_close(after[name].double(), before[name] - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    assert logged(trainer)[0]["loss"] == pytest.approx(first[0] / 4 + 3 * second[0] / 4 + retain[0], rel=1e-4)


def test_weights_are_as_they_were_when_a_view_ends(tmp_path):
    """Without a step (rate 0) nothing may have changed, not by a bit."""
    model = tiny_model()
    before = weights(model)
    one_step(tmp_path, Shifted(forget=[(0.3, 1.0)]), model=model, weight_decay=0.0, learning_rate=1e-30)
    assert_same(weights(model), before)


def test_views_of_several_parts_stand_side_by_side(tmp_path):
    together = one_step(tmp_path, Shifted(forget=[(0.02, 1.0), (-0.01, 1.0)]), model=tiny_model())
    apart = one_step(tmp_path, Shifted(forget=[(0.02, 1.0)]), Shifted(forget=[(-0.01, 1.0)]), model=tiny_model())
    assert_same(weights(together.model), weights(apart.model))


def test_terms_apart_are_the_terms_together(tmp_path):
    """A part that sees the weights as they are changes nothing but rounding."""
    plain = one_step(tmp_path, model=tiny_model(), max_steps=3)
    apart = one_step(tmp_path, Shifted(), model=tiny_model(), max_steps=3)
    for name, value in weights(plain.model).items():
        torch.testing.assert_close(weights(apart.model)[name], value, rtol=1e-4, atol=1e-6)
    for key in ("loss", "loss/forget", "loss/retain", "logps/forget", "grad_norm"):
        assert logged(apart)[-1][key] == pytest.approx(logged(plain)[-1][key], rel=1e-4)


class SeesBoth(Shifted):
    """The target is asked under the same shift."""

    def reference_views(self, model):
        self.model = model
        return self.views("retain")


@pytest.mark.parametrize("reference", ["cache", "model"])
def test_the_retain_term_is_compared_with_the_target_under_the_same_view(tmp_path, reference):
    settings = {"loss_type": "ga", "retain_loss_type": "kl", "reference": reference}
    both = one_step(tmp_path, SeesBoth(retain=[(0.05, 1.0)]), **settings)
    assert logged(both)[0]["kl/retain"] == pytest.approx(0.0, abs=1e-5)
    target_plain = one_step(tmp_path, Shifted(retain=[(0.05, 1.0)]), **settings)
    assert logged(target_plain)[0]["kl/retain"] > 1e-3


def test_another_reference_model_is_seen_under_the_view_too(tmp_path):
    """The shift is one of the reference's weights, not of the model that is trained."""
    other = tiny_model(seed=3)
    settings = {"loss_type": "ga", "retain_loss_type": "kl"}
    trainer = one_step(
        tmp_path,
        SeesBoth(retain=[(0.05, 1.0)]),
        model=copy.deepcopy(other),
        ref_model=copy.deepcopy(other),
        **settings,
    )
    assert logged(trainer)[0]["kl/retain"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("reference", ["cache", "model"])
def test_a_frozen_head_that_a_view_changes_is_not_shared_with_the_cache(tmp_path, reference):
    model = tiny_model()
    model.lm_head.requires_grad_(False)
    settings = {"loss_type": "ga", "retain_loss_type": "kl", "reference": reference}
    trainer = one_step(tmp_path, SeesBoth(retain=[(0.05, 1.0)]), model=model, **settings)
    assert logged(trainer)[0]["kl/retain"] == pytest.approx(0.0, abs=1e-5)


# ---- change_gradients and term_gradients ----


@pytest.mark.parametrize(("batch_size", "accumulation"), ACCUMULATION)
def test_finished_gradients_of_each_term_are_handed_over_once_a_step(tmp_path, batch_size, accumulation):
    model, part = tiny_model(), Doubled()
    trainer = one_step(tmp_path, part, model=copy.deepcopy(model), batch_size=batch_size, accumulation=accumulation)
    assert len(part.seen) == 1
    forget, retain = (term_by_hand(model, trainer, term)[1] for term in ("forget", "retain"))
    assert_near(part.seen[0]["forget"], forget)
    assert_near(part.seen[0]["retain"], retain)
    before, after = weights(model), weights(trainer.model)
    for name in before:
        step = 0.1 * (2 * forget[name] - 0.5 * retain[name])
        torch.testing.assert_close(after[name].double(), before[name] - step, rtol=1e-4, atol=1e-6)


def test_changed_gradients_are_what_is_clipped(tmp_path):
    trainer = one_step(tmp_path, part := Doubled(), max_grad_norm=0.01)
    stepped = {
        name: 2 * part.seen[0]["forget"][name] - 0.5 * part.seen[0]["retain"][name] for name in weights(tiny_model())
    }
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in stepped.values()))
    assert logged(trainer)[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    moved = math.sqrt(
        sum(
            float((value - weights(trainer.model)[name]).square().sum())
            for name, value in weights(tiny_model()).items()
        )
    )
    assert moved == pytest.approx(0.1 * 0.01, rel=1e-2)


def test_every_step_and_every_epoch_starts_without_the_last_ones_gradients(tmp_path):
    """Two epochs of 5 rows in micro-batches of 2 and steps of 2 micro-batches: 4 rows, 1 row, 4 rows, 1 row."""
    part = Doubled()
    one_step(
        tmp_path,
        part,
        batch_size=2,
        accumulation=2,
        max_steps=4,
        learning_rate=1e-30,
        forget_dataset=tiny_rows("forget", 5),
    )
    assert len(part.seen) == 4
    assert_same(part.seen[0]["forget"], part.seen[2]["forget"])
    assert_same(part.seen[1]["forget"], part.seen[3]["forget"])
    assert not torch.equal(part.seen[0]["forget"]["lm_head.weight"], part.seen[1]["forget"]["lm_head.weight"])


@pytest.mark.parametrize(("batch_size", "accumulation"), ACCUMULATION)
def test_a_terms_gradients_can_be_asked_for_before_the_step(tmp_path, batch_size, accumulation):
    model, part = tiny_model(), Asks()
    settings = {"batch_size": batch_size, "accumulation": accumulation, "forget_weight": 3.0}
    trainer = one_step(tmp_path, part, model=copy.deepcopy(model), **settings)
    assert_near(part.answers[0]["forget"], term_by_hand(model, trainer, "forget")[1], scale=3.0)
    assert_near(part.answers[0]["retain"], term_by_hand(model, trainer, "retain")[1])
    assert part.left_behind == []


def test_asking_changes_neither_the_step_nor_what_is_logged(tmp_path):
    plain, asked = (one_step(tmp_path, *parts, model=tiny_model(), max_steps=2) for parts in ((), (Asks(),)))
    assert_same(weights(plain.model), weights(asked.model))
    for key in ("loss", "loss/forget", "loss/retain", "logps/forget", "grad_norm"):
        assert logged(asked)[-1][key] == logged(plain)[-1][key]


class RetainOnly(TrainingPart):
    def term_weights(self, step):

        return TermWeights(forget=0.0)


def test_a_term_that_does_not_count_has_no_gradients(tmp_path):
    changes, asks = Doubled(), Asks()
    one_step(tmp_path, RetainOnly(), changes, asks)
    assert set(changes.seen[0]) == {"retain"}
    assert asks.answers[0]["forget"] == {}


def test_parts_that_take_gradients_apart_are_refused_with_fp16(tmp_path):
    trainer = parts_trainer(tmp_path)
    trainer.args.fp16 = True

    with pytest.raises(RequestError, match="bf16"):
        check_parts([Doubled()], trainer.accelerator, trainer.args)
    check_parts([Counts()], trainer.accelerator, trainer.args)


# ---- finish, save_state, load_state ----


def test_finish_comes_once_after_the_last_step_and_before_saving(tmp_path):
    part = Counts()
    trainer = one_step(tmp_path, part, max_steps=3, save_strategy="steps", save_steps=3)
    trainer.save_model(str(tmp_path / "saved"))
    assert part.finished == [(3, 3)]
    saved = load_file(tmp_path / "saved" / "model.safetensors")["model.norm.weight"]
    assert torch.equal(saved, torch.full_like(saved, 7.0))
    # A checkpoint holds the run as it was before it was finished.
    kept = load_file(tmp_path / "checkpoint-3" / "model.safetensors")["model.norm.weight"]
    assert not torch.equal(kept, saved)


@pytest.mark.parametrize("cut", [2, 3])
def test_a_part_with_state_resumes_bit_for_bit(tmp_path, cut):
    settings = {"max_steps": 5, "save_strategy": "steps", "save_steps": cut, "optim": "adamw_torch"}
    whole = one_step(tmp_path / "whole", Counts(), model=tiny_model(), **settings)
    one_step(tmp_path / "cut", Counts(), model=tiny_model(), **{**settings, "max_steps": cut})
    resumed = parts_trainer(
        tmp_path / "cut",
        part := Counts(),
        model=tiny_model(),
        loss_type="ga",
        retain_loss_type="nll",
        **{**SGD, **settings},
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{cut}"))
    assert part.loaded == [cut]
    assert part.number == 5
    assert_same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize(("rows", "accumulation", "epochs"), [(8, 1, 2), (5, 2, 3), (8, 3, 1.5)])
def test_parts_are_told_how_many_steps_the_whole_run_has(tmp_path, rows, accumulation, epochs):
    part = Counts()
    trainer = one_step(
        tmp_path,
        part,
        batch_size=2,
        accumulation=accumulation,
        max_steps=-1,
        num_train_epochs=epochs,
        forget_dataset=tiny_rows("forget", rows),
    )
    assert part.finished == [(trainer.state.max_steps, trainer.state.max_steps)]


# ---- Two processes ----

NAMED = {
    "weights": [
        {"name": "sure-rows", "percentile": 50},
        {"name": "sam", "rho": 0.05},
        {"name": "smoothing", "sigma": 0.02, "draws": 2},
        {"name": "precision-views", "grids": ["nf4", "int4-g32"], "noise": ["nf4"], "per_step": 2},
        {"name": "weight-averaging", "start": 0},
    ],
    "signs": [{"name": "sign-filter"}],
}
"""The parts of this package that act on passes and gradients; signs of a KL gradient at the target are rounding."""


def run_with(folder, kind, settings):
    """A run with the parts of this test, or with those of the package; gives the trainer and what was asked."""
    asks = Asks()
    if kind in NAMED:
        retain = "nll" if kind == "signs" else "kl"
        trainer = tiny_trainer(folder, robust=NAMED[kind], retain_loss_type=retain, **settings)
    else:
        parts = [Shifted(forget=[(0.02, 1.0), (-0.01, 3.0)], retain=[(0.03, 1.0)]), Doubled(), asks]
        trainer = parts_trainer(folder, *parts, retain_loss_type="kl", **settings)
    trainer.train()
    trainer.save_model(folder)
    terms = asks.answers[1] if asks.answers else {}
    norms = {term: sum(float(g.double().square().sum()) for g in kept.values()) for term, kept in terms.items()}
    return trainer, {"log": logged(trainer), "norms": norms, "processes": trainer.accelerator.num_processes}


SCRIPT = """
import json, sys
sys.path[:0] = [{tests!r}, {tiny!r}]
from test_part_hooks import run_with

for kind in ("hooks", "weights", "signs"):
    trainer, made = run_with({folder!r} + kind, kind, {settings!r})
    if trainer.is_world_process_zero():
        open({folder!r} + kind + "/made.json", "w").write(json.dumps(made))
trainer.accelerator.end_training()
"""


def test_two_processes_with_parts_step_as_one(tmp_path):
    settings = {"loss_type": "npo", "max_steps": 2, "logging_steps": 1, **SGD}
    here, script = Path(__file__).parent, tmp_path / "script.py"
    spread = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "ddp_backend": "gloo", **settings}
    tiny, folder = str(here.parent / "trainer"), str(tmp_path / "two-")
    script.write_text(SCRIPT.format(tests=str(here), tiny=tiny, folder=folder, settings=spread))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]

    for kind in ("hooks", "weights", "signs"):
        one, alone = run_with(str(tmp_path / kind), kind, {"per_device_train_batch_size": 4, **settings})
        made = json.loads((tmp_path / f"two-{kind}" / "made.json").read_text())
        assert (alone["processes"], made["processes"]) == (1, 2)
        for term, norm in alone["norms"].items():
            assert made["norms"][term] == pytest.approx(norm, rel=1e-3)
        two = load_file(tmp_path / f"two-{kind}" / "model.safetensors")
        for name, value in weights(one.model).items():
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
        for found, expected in zip(made["log"], alone["log"], strict=True):
            for key in ("loss", "loss/forget", "loss/retain", "logps/forget", "grad_norm"):
                assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-5)
