"""Facts below chance are raised to chance: which ones, how far, and what a run makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from test_recovery_probe import AUTO, auto_trainer, blank_model, driven_model
from tiny_run import tiny_trainer, weights

from hf_unlearn.losses.base import LabelScores
from hf_unlearn.robust.levelling import Levelling, UpToChance


def shunning_model(folder):
    """Has unlearned the forget set far beyond chance: right answers are the least likely of all."""
    return driven_model(folder, towards=1.0, passes=30)


def test_only_answers_below_the_level_are_raised():
    """Two rows of two labels and one of one; log-probabilities by hand."""
    wanted = torch.tensor([[-4.0, -6.0], [-1.0, -2.0], [-3.0, 0.0]], dtype=torch.float64)
    logps = torch.cat([wanted[0], wanted[1], wanted[2, :1]])
    # The label's logit in a vocabulary of two whose other logit makes up the rest of the probability.
    logits = torch.stack([logps, torch.log1p(-logps.exp())], dim=-1).requires_grad_()
    labels, rows = torch.zeros(5, dtype=torch.int64), torch.tensor([0, 0, 1, 1, 2])
    found = UpToChance(-2.5)(LabelScores(logits, labels, rows, 3))
    assert float(found.total) == pytest.approx((-5.0 + 10.0) + 0.0 + (-2.5 + 3.0), abs=1e-12) and int(found.count) == 5
    found.total.backward()
    # Of cross-entropy at the labels of the rows that lack, nothing at the others.
    assert logits.grad[:2, 0].tolist() == pytest.approx([math.exp(-4) - 1, math.exp(-6) - 1], abs=1e-12)
    assert logits.grad[2:4].abs().max() == 0 and logits.grad[4, 0] == pytest.approx(math.exp(-3) - 1, abs=1e-12)


def test_a_look_finds_what_stands_out_below_and_nothing_where_all_is_even(tmp_path):
    found = {}
    for name, model in (("shunning", shunning_model(tmp_path / "shun")), ("blank", blank_model())):
        trainer = tiny_trainer(tmp_path / name, model)
        context = trainer.training_context(resuming=False)
        found[name] = Levelling()
        found[name].look(context, "seed")
    assert len(found["shunning"].rows) > 4 and found["blank"].rows == ()
    assert found["shunning"].floating_point_ops > 0
    rows = found["shunning"].rows
    assert found["shunning"].drawn(len(rows) - 1, 3) == [rows[-1], rows[0], rows[1 % len(rows)]]


def test_the_last_phase_raises_them_beside_the_repair(tmp_path):
    kept = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 60}
    settings = {"learning_rate": 3e-3, "max_steps": 40, "robust": [{**AUTO, "last": 0.6}], **kept}
    whole = auto_trainer(tmp_path, shunning_model(tmp_path / "shun"), **settings)
    whole.train()
    outcome = whole.parts[0].outcome()
    assert outcome["raised"] == [8, 0, 0]
    first = whole.parts[0]._last_phase()[0]
    # Resumed where facts are being raised, and just before.
    for step in (first, first + 1):
        resumed = auto_trainer(tmp_path, shunning_model(tmp_path / "shun"), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        for name, value in weights(whole.model).items():
            assert torch.equal(weights(resumed.model)[name], value), name
        assert resumed.parts[0].outcome() == outcome


def test_it_can_be_left_out(tmp_path):
    trainer = auto_trainer(
        tmp_path, shunning_model(tmp_path / "shun"), robust=[{**AUTO, "level": False}], max_steps=15
    )
    trainer.train()
    assert "raised" not in trainer.parts[0].outcome()
