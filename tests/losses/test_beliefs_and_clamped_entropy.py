"""Ascent on what the model itself would say, and entropy up to a share of the greatest."""

import math

import pytest
import torch
from random_batch import VOCABULARY, Batch

from hf_unlearn.errors import RequestError
from hf_unlearn.losses.forget.bs_s import BootstrapSequenceLoss
from hf_unlearn.losses.forget.bs_t import BootstrapTokenLoss
from hf_unlearn.losses.forget.clamped_entropy import ClampedEntropyLoss
from hf_unlearn.losses.forget.ga import GradientAscentLoss
from hf_unlearn.losses.forget.max_entropy import MaxEntropyLoss


def test_the_gradient_of_bs_t_is_the_soft_target_less_the_distribution():
    """The residual of theorem 5.2 of the paper: the beliefs are constants."""
    batch, share, top_k = Batch(0), 0.7, 3
    gradient = batch.gradient_of(BootstrapTokenLoss(share, top_k))
    row, time, label = batch.terms()[2]
    probabilities = [math.exp(batch.logp(batch.logits.detach(), row, time, token)) for token in range(VOCABULARY)]
    likely = sorted(range(VOCABULARY), key=lambda token: -probabilities[token])[:top_k]
    mass = sum(probabilities[token] for token in likely)
    for token in range(VOCABULARY):
        aim = share * probabilities[token] / mass * (token in likely) + (1 - share) * (token == label)
        expected = (aim - probabilities[token]) / batch.lengths()[row] / len(batch.labelled_rows())
        assert gradient[row, time, token].item() == pytest.approx(expected, abs=1e-12)


def test_without_beliefs_it_is_gradient_ascent_on_each_answers_mean():
    batch = Batch(1)
    for row in batch.labelled_rows():  # one label a row, so that rows and tokens are the same
        batch.labels[row] = torch.where(torch.arange(7) == 4, 3, -100)
    assert BootstrapTokenLoss(share=0.0)(batch.scores()).mean.item() == pytest.approx(
        GradientAscentLoss()(batch.scores()).mean.item(), rel=1e-12
    )


def test_a_likely_neighbour_is_pulled_up_less_than_by_plain_ascent():
    batch = Batch(2)
    row, time, label = batch.terms()[0]
    neighbour = (label + 1) % VOCABULARY
    batch.logits[row, time] = 0.0
    batch.logits[row, time, [label, neighbour]] = torch.tensor([6.0, 5.0], dtype=torch.float64)
    plain, shared, few = (
        batch.gradient_of(BootstrapTokenLoss(share, top_k))[row, time, neighbour].item()
        for share, top_k in ((0.0, 2), (0.5, 2), (0.9, 2))
    )
    assert plain < shared < few
    assert shared == pytest.approx(plain / 2, rel=0.1)


@pytest.mark.parametrize(("sequences", "which"), [(0.0, 0), (1.0, 1)])
def test_shares_of_bs_s_choose_the_true_answers_or_the_samples(sequences, which):
    batch = Batch(3)
    alone = (batch, batch.alternates)[which].scores()
    assert BootstrapSequenceLoss(sequences, 0.4, 5)(batch.scores()).total.item() == pytest.approx(
        BootstrapTokenLoss(0.4, 5)(alone).total.item(), rel=1e-12
    )


def test_bs_s_needs_the_samples():
    scores = Batch(4).scores()
    object.__setattr__(scores, "alternates", None)
    with pytest.raises(ValueError, match="alternates"):
        BootstrapSequenceLoss()(scores)


def test_clamped_entropy_rests_where_the_entropy_is_high_enough():
    batch = Batch(5)
    batch.logits = batch.logits * 0.01  # nearly uniform
    assert ClampedEntropyLoss(0.7)(batch.scores()).mean.item() == 0.0
    assert not batch.gradient_of(ClampedEntropyLoss(0.7)).any()
    assert batch.gradient_of(ClampedEntropyLoss(1.0)).any()


def test_at_the_greatest_entropy_it_is_max_entropy():
    scores = Batch(6).scores()
    assert ClampedEntropyLoss(1.0)(scores).mean.item() == pytest.approx(
        MaxEntropyLoss()(scores).mean.item(), rel=1e-12
    )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BootstrapTokenLoss(share=1.1), "bs-t: share"),
        (lambda: BootstrapTokenLoss(top_k=0), "bs-t: top_k"),
        (lambda: BootstrapSequenceLoss(share=-0.1), "bs-s: share"),
        (lambda: BootstrapSequenceLoss(sequences=2.0), "bs-s: sequences"),
        (lambda: ClampedEntropyLoss(tau=0.0), "clamped-entropy: tau"),
        (lambda: ClampedEntropyLoss(tau=math.nan), "clamped-entropy: tau"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, named):
    with pytest.raises(RequestError, match=named):
        make()
