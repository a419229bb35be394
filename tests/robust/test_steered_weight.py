"""Retain weights that follow the retain loss: by hand, through the trainer, and through a checkpoint."""

from __future__ import annotations

import json
import math

import pytest
from tiny_run import assert_same, logged, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.recipe.method_settings import make_config
from hf_unlearn.robust.base import StepResult
from hf_unlearn.robust.dual_ascent import DualAscent
from hf_unlearn.robust.kl_budget import KLBudget


def step(part, number: int, **means: float) -> float:
    part.after_step(StepResult(number, None, lambda: means))
    return part.term_weights(number).retain


def test_dual_ascent_by_hand():
    part = DualAscent(limit=0.5, rate=2.0, start=3.0, warmup_steps=1)
    assert part.term_weights(0).retain == 3.0 and part.term_weights(0).forget == 1.0
    assert step(part, 1, **{"loss/retain": 9.0}) == 3.0  # still warming up
    assert step(part, 2, **{"loss/retain": 1.5}) == pytest.approx(3.0 + 2.0 * 1.0)
    assert step(part, 3, **{"loss/retain": 0.25}) == pytest.approx(5.0 - 2.0 * 0.25)
    assert step(part, 4, **{"loss/retain": 0.0}) == pytest.approx(4.5 - 1.0)
    assert step(part, 5, **{"loss/forget": 7.0}) == pytest.approx(3.5)  # no retain term in this step
    for number in range(6, 20):
        step(part, number, **{"loss/retain": 0.0})
    assert part.factor == 1e-4  # never 0: the retain term has to be seen again
    assert step(part, 20, **{"loss/retain": 2.5}) == pytest.approx(4.0, abs=1e-3)


def test_kl_budget_by_hand():
    part = KLBudget(budget=0.1, rate=0.5, memory=0.5)
    assert part.term_weights(0).retain == 1.0
    first = step(part, 1, **{"kl/retain": 0.2})
    assert first == pytest.approx(math.exp(0.5 * math.log(2)))
    second = step(part, 2, **{"kl/retain": 0.04})  # the running mean is now 0.12
    assert second == pytest.approx(first * math.exp(0.5 * math.log(1.2)))
    assert step(part, 3, **{"kl/retain": 100.0}) == pytest.approx(second * math.exp(0.5))  # never more than the rate
    for number in range(4, 60):
        step(part, number, **{"kl/retain": 100.0})
    assert part.factor == 1000.0
    for number in range(60, 200):
        step(part, number, **{"kl/retain": 0.0})
    assert part.factor == 1e-4


def test_the_divergence_ends_near_the_budget_from_either_side(tmp_path):
    """Started with a weight ten times too large and ten times too small, the same divergence is spent."""
    ends = []
    for start in (0.1, 30.0):
        trainer = tiny_trainer(
            tmp_path / str(start),
            loss_type="npo",
            retain_weight=start,
            retain_per_forget=2,
            robust=[{"name": "kl-budget", "budget": 0.05, "rate": 0.3, "memory": 0.5}],
            max_steps=90,
            learning_rate=3e-3,
            logging_steps=1,
        )
        trainer.train()
        last = [entry["kl/retain"] for entry in logged(trainer)][-30:]
        ends.append(sum(last) / len(last))
    assert all(0.02 < end < 0.1 for end in ends), ends


@pytest.mark.parametrize(
    ("part", "retain", "file"),
    [
        ({"name": "kl-budget", "budget": 0.02, "rate": 0.5}, "kl", "kl_budget.json"),
        ({"name": "dual-ascent", "limit": 1.0, "start": 2.0}, "nll", "dual_ascent.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_a_resumed_run_ends_bit_for_bit_as_one_in_one_go(tmp_path, part, retain, file):
    settings = {"loss_type": "pdu", "retain_loss_type": retain, "robust": [part], "max_steps": 6}
    settings |= {"save_strategy": "steps", "save_steps": 3}
    whole = tiny_trainer(tmp_path, **settings)
    whole.train()
    resumed = tiny_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(weights(resumed.model), weights(whole.model))
    assert resumed.parts[0].factor == whole.parts[0].factor != 1.0
    kept = tmp_path / "checkpoint-3" / "parts" / file
    assert json.loads(kept.read_text())["factor"] != whole.parts[0].factor
    kept.write_text("{")
    with pytest.raises(RequestError, match=f"{file} is missing or damaged"):
        tiny_trainer(tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_the_weight_is_that_of_the_objective(tmp_path):
    """Two steps by hand: the logged objective is the forget loss plus factor times retain loss."""
    trainer = tiny_trainer(
        tmp_path,
        loss_type="ga",
        retain_loss_type="nll",
        robust=[{"name": "dual-ascent", "limit": 1.0, "rate": 0.5, "start": 4.0}],
        max_steps=3,
        logging_steps=1,
    )
    trainer.train()
    factor = 4.0
    for entry in logged(trainer):
        assert entry["loss"] == pytest.approx(entry["loss/forget"] + factor * entry["loss/retain"], rel=1e-4)
        factor += 0.5 * (entry["loss/retain"] - 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"robust": ["kl-budget"], "retain_loss_type": "nll"}, "set retain_loss_type to kl, or use dual-ascent"),
        ({"robust": ["kl-budget"], "retain_loss_type": "none"}, "needs a retain loss"),
        ({"robust": ["dual-ascent"]}, "dual-ascent: limit is 0.0; give the greatest retain loss"),
        ({"robust": [{"name": "kl-budget", "budget": 0}]}, "budget is 0"),
        ({"robust": [{"name": "kl-budget", "rate": -1}]}, "rate is -1"),
        ({"robust": [{"name": "kl-budget", "memory": 1}]}, "memory is 1"),
        ({"robust": [{"name": "kl-budget", "largest": 1}]}, "largest is 1"),
        ({"robust": [{"name": "dual-ascent", "limit": 1, "rate": 0}]}, "rate is 0"),
        ({"robust": [{"name": "dual-ascent", "limit": 1, "start": 0}]}, "start is 0"),
        ({"robust": [{"name": "dual-ascent", "limit": 1, "warmup_steps": -1}]}, "warmup_steps is -1"),
    ],
)
def test_what_makes_no_sense_is_refused_at_recipe_check(tmp_path, settings, message):
    with pytest.raises(RequestError, match=message):
        make_config(settings, tmp_path, 0)
