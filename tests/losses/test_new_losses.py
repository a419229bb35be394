"""Limit cases and bad input of losses on alternates, on the reference's logits and on hidden states."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from random_batch import ROWS, TIME, VOCABULARY, WIDTH, Batch

from hf_unlearn.errors import RequestError
from hf_unlearn.losses.base import IGNORED
from hf_unlearn.losses.forget.altpo import AltPOLoss
from hf_unlearn.losses.forget.dpo import DPOLoss
from hf_unlearn.losses.forget.ga import GradientAscentLoss
from hf_unlearn.losses.forget.idk_dpo import IdkDPOLoss
from hf_unlearn.losses.forget.idk_nll import IdkNLLLoss
from hf_unlearn.losses.forget.jensen_shannon import JensenShannonLoss
from hf_unlearn.losses.forget.margin import MarginLoss
from hf_unlearn.losses.forget.margin_to_reference import MarginToReferenceLoss
from hf_unlearn.losses.forget.max_entropy import MaxEntropyLoss
from hf_unlearn.losses.forget.npo import NPOLoss
from hf_unlearn.losses.forget.pdu import PDULoss
from hf_unlearn.losses.forget.rmu import RMULoss, control_vector
from hf_unlearn.losses.forget.undial import UndialLoss
from hf_unlearn.losses.retain.hidden import HiddenRetainLoss
from hf_unlearn.losses.retain.jensen_shannon import JensenShannonRetainLoss
from hf_unlearn.losses.retain.kl import KLRetainLoss


def test_dpo_is_npo_where_the_alternate_stays_at_its_reference():
    batch = Batch(0)
    batch.alternates.reference_logps = torch.tensor(
        [batch.alternates.logp_sum(batch.alternates.logits, row) for row in range(ROWS)], dtype=torch.float64
    )
    assert DPOLoss(0.3)(batch.scores()).mean.item() == pytest.approx(NPOLoss(0.3)(batch.scores()).mean.item(), 1e-12)


def test_dpo_tends_to_ascent_on_the_answer_and_descent_on_the_alternate():
    batch = Batch(1)
    leaves = batch.leaves()
    DPOLoss(beta=1e-7)(batch.scores()).mean.backward()
    found = [leaf.grad for leaf in leaves if leaf.grad is not None]
    other = Batch(1)
    leaves = other.leaves()
    scores = other.scores()
    rows = scores.row_has_labels
    ((scores.row_logps - scores.alternates.row_logps)[rows].sum() / rows.sum()).backward()
    for gradient, expected in zip(found, [leaf.grad for leaf in leaves if leaf.grad is not None], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_refusals_and_generated_answers_are_the_same_loss_from_another_source():
    scores = Batch(2).scores()
    values = {type(loss)(beta=0.2)(scores).mean.item() for loss in (DPOLoss(), IdkDPOLoss(), AltPOLoss())}
    assert len(values) == 1
    assert [loss.default_alternates for loss in (DPOLoss, IdkDPOLoss, AltPOLoss)] == [None, "refusals", "generated"]


def test_undial_looks_at_answers_only():
    """Prompt and padding, whose label is -100, neither count nor turn a logit of the vocabulary's end down."""
    batch = Batch(3)
    gradient = batch.gradient_of(UndialLoss())
    answers = torch.zeros(ROWS, TIME, dtype=torch.bool)
    for row, time, _ in batch.terms():
        answers[row, time] = True
    assert not gradient[~answers].any()
    assert gradient[answers].any(dim=-1).all()
    before = UndialLoss()(batch.scores()).mean.item()
    with torch.no_grad():
        batch.logits[~answers] += torch.randn(int((~answers).sum()), VOCABULARY, dtype=torch.float64)
    batch.reference[~answers] *= -1.0
    assert UndialLoss()(batch.scores()).mean.item() == before


def test_undial_is_at_its_least_at_the_lowered_reference():
    batch = Batch(4)
    batch.logits = batch.reference.clone()
    for row, time, label in batch.terms():
        batch.logits[row, time, label] -= 5.0
    assert batch.gradient_of(UndialLoss(beta=5.0)).abs().max() < 1e-12
    batch.logits = batch.reference.clone()
    gradient = batch.gradient_of(UndialLoss(beta=5.0))
    row, time, label = batch.terms()[0]
    assert gradient[row, time, label] > 0


def test_flat_logits_are_the_end_of_pdu_and_of_maximum_entropy():
    batch = Batch(5)
    batch.logits = torch.full_like(batch.logits, 3.7)
    assert PDULoss()(batch.scores()).mean.item() == pytest.approx(0.0, abs=1e-20)
    assert MaxEntropyLoss()(batch.scores()).mean.item() == pytest.approx(0.0, abs=1e-12)


def test_margin_lets_go_where_the_true_token_trails_enough():
    batch = Batch(6)
    with torch.no_grad():
        for row, time, label in batch.terms():
            others = [token for token in range(VOCABULARY) if token != label]
            batch.logits[row, time, label] = batch.logits[row, time, others].max() - 1.01
    assert MarginLoss(1.0)(batch.scores()).mean.item() == 0.0
    assert not batch.gradient_of(MarginLoss(1.0)).any()
    assert batch.gradient_of(MarginLoss(1.1)).any()


def test_margin_pushes_as_hard_when_a_token_is_nearly_forgotten():
    """A likelihood's force fades with the probability; the hinge's is the same until the margin is reached."""
    forces = []
    for lead in (20.0, 0.5, -0.9):
        batch = Batch(7)
        row, time, label = batch.terms()[0]
        with torch.no_grad():
            others = [token for token in range(VOCABULARY) if token != label]
            batch.logits[row, time, label] = batch.logits[row, time, others].max() + lead
        forces.append(batch.gradient_of(MarginLoss(1.0))[row, time, label].item())
    assert forces[0] == forces[1] == forces[2] == pytest.approx(1 / len(batch.terms()))


def test_margin_to_reference_is_kappa_at_the_reference():
    batch = Batch(8)
    batch.logits = batch.reference.clone()
    assert MarginToReferenceLoss(2.5)(batch.scores()).mean.item() == pytest.approx(2.5, rel=1e-12)


def test_jensen_shannon_runs_from_zero_to_log_two():
    batch = Batch(9)
    answers = {row: [label for r, _, label in batch.alternates.terms() if r == row] for row in range(ROWS)}
    for sign, expected in ((1.0, 0.0), (-1.0, math.log(2))):
        places = dict.fromkeys(range(ROWS), 0)
        for row, time, _ in batch.terms():
            wanted = answers[row][places[row] % len(answers[row])]
            places[row] += 1
            batch.logits[row, time] = 0.0
            batch.logits[row, time, wanted] = sign * 800.0
        assert JensenShannonLoss()(batch.scores()).mean.item() == pytest.approx(expected, abs=1e-12)


def test_jensen_shannon_looks_at_the_labels_of_alternates_only():
    batch = Batch(10)
    scores = batch.scores()
    bare = dataclasses.replace(scores.alternates, logits=None, hidden=None, reference_logps=None)
    loss = JensenShannonLoss()
    assert loss(dataclasses.replace(scores, alternates=bare)).mean.item() == loss(scores).mean.item()


def test_jensen_shannon_retain_is_zero_at_the_target_and_a_quarter_of_kl_near_it():
    batch = Batch(11)
    batch.logits = batch.reference.clone()
    assert JensenShannonRetainLoss()(batch.scores()).mean.item() == pytest.approx(0.0, abs=1e-12)
    assert batch.gradient_of(JensenShannonRetainLoss()).abs().max() < 1e-12
    noise = torch.randn(batch.reference.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch.logits = batch.reference + 1e-3 * noise
    ratio = KLRetainLoss()(batch.scores()).mean / JensenShannonRetainLoss()(batch.scores()).mean
    assert ratio.item() == pytest.approx(4.0, rel=1e-2)


def test_control_vector_has_length_one_and_is_one_for_a_run():
    first, again, other = control_vector(64, 0), control_vector(64, 0), control_vector(64, 1)
    assert first.norm().item() == pytest.approx(1.0, rel=1e-12)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert (first >= 0).all()  # uniform from 0 to 1 before it was scaled


def test_rmu_weighs_rows_alike_whatever_their_length():
    batch = Batch(12)
    batch.hidden = torch.zeros_like(batch.hidden)
    assert RMULoss(coefficient=3.0)(batch.scores()).mean.item() == pytest.approx(9.0, rel=1e-12)
    batch.labels[0, 1:] = 3  # a longer row
    assert RMULoss(coefficient=3.0)(batch.scores()).mean.item() == pytest.approx(9.0, rel=1e-12)


def test_rmu_is_zero_at_the_control_vector():
    batch = Batch(13)
    batch.hidden = (2.0 * control_vector(WIDTH, 5)).expand(ROWS, TIME, WIDTH).clone()
    assert RMULoss(coefficient=2.0, vector_seed=5)(batch.scores()).mean.item() == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize(
    ("loss", "layers"),
    [
        (RMULoss(), (5, 6, 7)),
        (RMULoss(layer=1), (0, 1)),
        (RMULoss(layer=4, trained=1), (4,)),
        (RMULoss(trained=0), ()),
        (GradientAscentLoss(), ()),
    ],
)
def test_layers_that_a_loss_is_made_for(loss, layers):
    assert loss.trained_layers == layers


def test_hidden_is_zero_at_the_target():
    batch = Batch(14)
    batch.hidden = batch.reference_hidden.clone()
    assert HiddenRetainLoss()(batch.scores()).mean.item() == 0.0


@pytest.mark.parametrize(
    ("loss", "field", "what"),
    [
        (DPOLoss(), "alternates", "alternates"),
        (DPOLoss(), "reference_logps", "reference"),
        (JensenShannonLoss(), "alternates", "alternates"),
        (UndialLoss(), "reference_logits", "reference"),
        (MarginToReferenceLoss(), "reference_logits", "reference"),
        (JensenShannonRetainLoss(), "reference_logits", "reference"),
        (RMULoss(), "hidden", "hidden"),
        (HiddenRetainLoss(), "reference_hidden", "reference"),
    ],
)
def test_what_was_not_given_is_named(loss, field, what):
    scores = dataclasses.replace(Batch(15).scores(), **{field: None})
    with pytest.raises(ValueError, match=what):
        loss(scores)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: DPOLoss(beta=0.0), "beta"),
        (lambda: AltPOLoss(beta=math.nan), "beta"),
        (lambda: UndialLoss(beta=-1.0), "beta"),
        (lambda: MarginLoss(kappa=-0.1), "kappa"),
        (lambda: MarginToReferenceLoss(kappa=math.nan), "kappa"),
        (lambda: RMULoss(layer=-1), "layer"),
        (lambda: RMULoss(coefficient=0.0), "coefficient"),
        (lambda: RMULoss(vector_seed=-1), "vector_seed"),
        (lambda: RMULoss(trained=-1), "trained"),
        (lambda: HiddenRetainLoss(layer=-1), "layer"),
    ],
)
def test_out_of_range_is_refused_by_name(make, named):
    with pytest.raises(RequestError, match=named):
        make()


def test_alternates_without_labels_count_nothing():
    batch = Batch(16)
    batch.alternates.labels[1] = IGNORED
    loss = IdkNLLLoss()
    assert int(loss(batch.scores_for(loss)).count) == len(batch.alternates.terms())
