"""Each loss against its formula, computed by plain Python loops in double precision."""

import math
import random

import pytest
import torch

from hf_unlearn.errors import RequestError
from hf_unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES
from hf_unlearn.losses.base import IGNORED, LabelScores, LossSum, label_positions
from hf_unlearn.losses.forget.ga import GradientAscentLoss
from hf_unlearn.losses.forget.npo import NPOLoss
from hf_unlearn.losses.retain.kl import KLRetainLoss
from hf_unlearn.losses.retain.nll import NLLRetainLoss
from hf_unlearn.losses.retain.none import NoRetainLoss

ROWS, TIME, VOCABULARY = 5, 7, 11


class Batch:
    """Random logits and labels with prompts, padding, labels masked in the middle, and one row without any label."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        draw = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        shape = (ROWS, TIME, VOCABULARY)
        self.logits = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        self.reference = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        self.labels = torch.full((ROWS, TIME), IGNORED)
        for row in range(ROWS - 1):
            start, end = draw.randint(0, 2), draw.randint(4, TIME)
            for time in range(start, end):
                if draw.random() < 0.8:
                    self.labels[row, time] = draw.randrange(VOCABULARY)
        self.reference_logps = torch.tensor(
            [self.logp_sum(self.reference, row) for row in range(ROWS)], dtype=torch.float64
        )

    def terms(self) -> list[tuple[int, int, int]]:
        """(row, position, label) of everything that counts; the first token of a row is never predicted."""
        found = []
        for row in range(ROWS):
            for time in range(1, TIME):
                label = int(self.labels[row, time])
                if label != IGNORED:
                    found.append((row, time - 1, label))
        return found

    def logp(self, logits: torch.Tensor, row: int, time: int, token: int) -> float:
        values = [float(value) for value in logits[row, time]]
        return values[token] - math.log(sum(math.exp(value) for value in values))

    def logp_sum(self, logits: torch.Tensor, wanted: int) -> float:
        return sum(self.logp(logits, row, time, label) for row, time, label in self.terms() if row == wanted)

    def labelled_rows(self) -> list[int]:
        return sorted({row for row, _, _ in self.terms()})

    def scores(self, chosen: list[int] | None = None) -> LabelScores:
        keep = list(range(ROWS)) if chosen is None else chosen
        labels = self.labels[keep]
        positions = label_positions(labels)
        rows, times = positions.nonzero(as_tuple=True)
        return LabelScores(
            logits=self.logits[keep][positions],
            labels=labels[rows, times + 1],
            rows=rows,
            n_rows=len(keep),
            reference_logps=self.reference_logps[keep],
            reference_logits=self.reference[keep][positions],
        )


def by_hand_ga(batch: Batch) -> float:
    terms = batch.terms()
    return sum(batch.logp(batch.logits, *term) for term in terms) / len(terms)


def by_hand_nll(batch: Batch) -> float:
    return -by_hand_ga(batch)


def by_hand_npo(batch: Batch, beta: float) -> float:
    rows = batch.labelled_rows()
    total = 0.0
    for row in rows:
        ratio = batch.logp_sum(batch.logits, row) - batch.logp_sum(batch.reference, row)
        total += -(2 / beta) * math.log(1 / (1 + math.exp(beta * ratio)))
    return total / len(rows)


def by_hand_kl(batch: Batch) -> float:
    terms = batch.terms()
    total = 0.0
    for row, time, _ in terms:
        for token in range(VOCABULARY):
            reference = batch.logp(batch.reference, row, time, token)
            total += math.exp(reference) * (reference - batch.logp(batch.logits, row, time, token))
    return total / len(terms)


CASES = [
    (GradientAscentLoss(), by_hand_ga),
    (NPOLoss(beta=0.1), lambda batch: by_hand_npo(batch, 0.1)),
    (NPOLoss(beta=1.5), lambda batch: by_hand_npo(batch, 1.5)),
    (NLLRetainLoss(), by_hand_nll),
    (KLRetainLoss(), by_hand_kl),
]
IDS = ["ga", "npo-0.1", "npo-1.5", "nll", "kl"]


@pytest.mark.parametrize(("loss", "by_hand"), CASES, ids=IDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_is_its_formula(loss, by_hand, seed):
    batch = Batch(seed)
    assert loss(batch.scores()).mean.item() == pytest.approx(by_hand(batch), rel=1e-12)


@pytest.mark.parametrize(("loss", "by_hand"), CASES, ids=IDS)
def test_loss_of_half_precision_logits_is_computed_in_single(loss, by_hand):
    batch = Batch(3, torch.bfloat16)
    result = loss(batch.scores())
    assert result.total.dtype == torch.float32
    assert result.mean.item() == pytest.approx(by_hand(batch), rel=1e-5)


@pytest.mark.parametrize("loss", [case[0] for case in CASES], ids=IDS)
def test_count_is_known_before_the_forward_pass(loss):
    batch = Batch(4)
    assert loss.count(batch.labels) == loss(batch.scores()).count
    expected = len(batch.labelled_rows()) if isinstance(loss, NPOLoss) else len(batch.terms())
    assert int(loss.count(batch.labels)) == expected


@pytest.mark.parametrize("loss", [case[0] for case in CASES], ids=IDS)
def test_splitting_and_order_change_neither_loss_nor_gradient(loss):
    def loss_and_gradient(parts: list[list[int]]) -> tuple[float, torch.Tensor]:
        batch = Batch(5)
        batch.logits.requires_grad_(True)
        sums: list[LossSum] = [loss(batch.scores(part)) for part in parts]
        mean = sum(part.total for part in sums) / sum(int(part.count) for part in sums)
        mean.backward()
        return mean.item(), batch.logits.grad

    whole, whole_gradient = loss_and_gradient([[0, 1, 2, 3, 4]])
    for parts in ([[4, 2, 0, 3, 1]], [[0], [1, 2, 3, 4]], [[4], [3, 0], [1], [2]]):
        split, gradient = loss_and_gradient(parts)
        assert split == pytest.approx(whole, rel=1e-12)
        torch.testing.assert_close(gradient, whole_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", [case[0] for case in CASES], ids=IDS)
def test_no_labels_is_zero_and_differentiable(loss):
    batch = Batch(6)
    batch.labels[:] = IGNORED
    batch.reference_logps[:] = 0.0
    batch.logits.requires_grad_(True)
    result = loss(batch.scores())
    result.mean.backward()
    assert result.mean.item() == 0.0
    assert int(result.count) == 0
    assert not batch.logits.grad.any()


def test_gradient_ascent_lowers_likelihood():
    batch = Batch(7)
    batch.logits.requires_grad_(True)
    GradientAscentLoss()(batch.scores()).mean.backward()
    row, time, label = batch.terms()[0]
    assert batch.logits.grad[row, time, label] > 0  # a descent step lowers the label's logit


def test_npo_tends_to_gradient_ascent_on_sequences():
    gradients = []
    for beta in (1e-6, None):
        batch = Batch(8)
        batch.logits.requires_grad_(True)
        scores = batch.scores()
        if beta is None:
            loss = scores.row_logps.sum() / len(batch.labelled_rows())
        else:
            loss = NPOLoss(beta)(scores).mean
        loss.backward()
        gradients.append(batch.logits.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_npo_gradient_fades_for_rows_already_forgotten():
    batch = Batch(9)
    batch.reference_logps += 1000.0  # every row is now far less likely than under the reference
    batch.logits.requires_grad_(True)
    NPOLoss(0.1)(batch.scores()).mean.backward()
    assert batch.logits.grad.abs().max() < 1e-12


def test_npo_at_the_reference_is_two_log_two_over_beta():
    batch = Batch(10)
    batch.logits = batch.reference
    assert NPOLoss(0.25)(batch.scores()).mean.item() == pytest.approx(2 / 0.25 * math.log(2), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_npo_refuses_a_beta_that_is_not_positive(beta):
    with pytest.raises(RequestError, match="beta"):
        NPOLoss(beta)


def test_kl_is_zero_with_zero_gradient_at_the_target():
    batch = Batch(11)
    batch.logits = batch.reference.clone().requires_grad_(True)
    result = KLRetainLoss()(batch.scores()).mean
    result.backward()
    assert result.item() == pytest.approx(0.0, abs=1e-12)
    assert batch.logits.grad.abs().max() < 1e-12


def test_kl_ignores_a_constant_added_to_logits():
    batch = Batch(12)
    before = KLRetainLoss()(batch.scores()).mean.item()
    batch.logits = batch.logits + 5.0
    assert KLRetainLoss()(batch.scores()).mean.item() == pytest.approx(before, rel=1e-10)


def test_kl_weighs_by_the_reference():
    """Missing what the target finds likely costs much; finding likely what it does not costs little."""
    narrow, wide = torch.tensor([[8.0, 0.0, 0.0]]), torch.tensor([[8.0, 8.0, 0.0]])

    def kl(reference: torch.Tensor, model: torch.Tensor) -> float:
        scores = LabelScores(model, torch.tensor([0]), torch.tensor([0]), 1, reference_logits=reference)
        return KLRetainLoss()(scores).mean.item()

    assert kl(wide, narrow) > 3.0
    assert kl(narrow, wide) < 1.0


def test_no_retain_loss():
    batch = Batch(13)
    result = NoRetainLoss()(batch.scores())
    assert (result.mean.item(), int(result.count), int(NoRetainLoss().count(batch.labels))) == (0.0, 0, 0)


@pytest.mark.parametrize(("loss", "field"), [(NPOLoss(), "reference_logps"), (KLRetainLoss(), "reference_logits")])
def test_a_missing_reference_is_an_error(loss, field):
    scores = Batch(14).scores()
    object.__setattr__(scores, field, None)
    with pytest.raises(ValueError, match="reference"):
        loss(scores)


def test_registries_name_paper_and_needs():
    assert FORGET_LOSSES.names() == ["ga", "npo"]
    assert RETAIN_LOSSES.names() == ["kl", "nll", "none"]
    for registry in (FORGET_LOSSES, RETAIN_LOSSES):
        for entry in registry.entries():
            assert entry.summary
            assert entry.paper or entry.name == "none"
            loss = entry.value(**entry.defaults)
            uses_reference = loss.uses_reference_logps or loss.uses_reference_logits
            assert ("reference" in entry.needs) == uses_reference
