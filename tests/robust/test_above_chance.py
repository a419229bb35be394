"""A forget loss without the rows that are below chance already."""

from __future__ import annotations

import pytest
import torch

from hf_unlearn.losses.base import LabelScores
from hf_unlearn.losses.forget.dpo import DPOLoss
from hf_unlearn.losses.forget.ga import GradientAscentLoss
from hf_unlearn.losses.forget.npo import NPOLoss
from hf_unlearn.losses.forget.rmu import RMULoss
from hf_unlearn.robust.above_chance import AboveChance, above_chance

ROWS = torch.tensor([0, 0, 1, 2, 2, 2])
LABELS = torch.tensor([1, 0, 3, 2, 2, 4])


def scores(reference: bool = False) -> LabelScores:
    """Three rows of two, one and three labels; the rows' mean log-probabilities differ."""
    torch.manual_seed(1)
    logits = torch.randn(6, 5, dtype=torch.float64)
    logits[2, 3] += 4  # the second row is likely
    logits = logits.requires_grad_(True)
    return LabelScores(logits, LABELS, ROWS, 3, torch.tensor([-2.0, -1.0, -5.0]) if reference else None)


def means(found: LabelScores) -> list[float]:
    logps = torch.log_softmax(found.logits.detach(), -1)[torch.arange(6), LABELS]
    return [float(logps[row == ROWS].mean()) for row in range(3)]


@pytest.mark.parametrize("loss", [GradientAscentLoss(), NPOLoss(beta=0.2)], ids=["ga", "npo"])
def test_rows_below_chance_add_nothing_and_get_no_gradient(loss):
    given = scores(reference=True)
    low, middle, high = sorted(means(given))
    kept = [row for row, mean in enumerate(means(given)) if mean >= middle]
    assert len(kept) == 2 and low < middle < high
    found = AboveChance(loss, middle - 1e-9)(given)
    # By hand: each row as a batch of its own.
    by_hand = scores(reference=True)
    total = torch.zeros((), dtype=torch.float64)
    for row in kept:
        own = row == ROWS
        alone = LabelScores(by_hand.logits[own], LABELS[own], ROWS[own] * 0, 1, by_hand.reference_logps[row : row + 1])
        total = total + loss(alone).total
    torch.testing.assert_close(found.total, total)
    found.total.backward()
    total.backward()
    torch.testing.assert_close(given.logits.grad, by_hand.logits.grad)
    assert [bool(given.logits.grad[row == ROWS].any()) for row in range(3)] == [row in kept for row in range(3)]


def test_with_no_row_left_there_is_no_gradient():
    given = scores()
    found = AboveChance(GradientAscentLoss(), 0.0)(given)
    assert found.total == 0 and found.count == 0
    found.total.backward()
    assert not given.logits.grad.any()


def test_with_all_rows_left_it_is_the_loss():
    given = scores()
    assert AboveChance(GradientAscentLoss(), -100.0)(given).total == GradientAscentLoss()(given).total


def test_all_rows_count_in_the_mean():
    labels = torch.tensor([[-100, 1, 0], [-100, 3, -100]])
    assert AboveChance(GradientAscentLoss(), 0.0).count(labels) == 3


def test_losses_on_other_things_stay_as_they_are():
    ascent = GradientAscentLoss()
    assert above_chance(ascent, None) is ascent  # before any look
    for loss in (RMULoss(), DPOLoss()):
        assert above_chance(loss, -3.0) is loss
    wrapped = above_chance(NPOLoss(), -3.0)
    assert isinstance(wrapped, AboveChance) and wrapped.uses_reference_logps and wrapped.uses_labels
