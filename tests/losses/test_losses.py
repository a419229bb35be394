"""Each loss against its formula, computed by plain Python loops in double precision."""

import math

import pytest
import torch
from loss_cases import CASES, COUNTS_ROWS
from random_batch import VOCABULARY, Batch

from hf_unlearn.errors import RequestError
from hf_unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES
from hf_unlearn.losses.base import IGNORED, LabelScores, LossSum
from hf_unlearn.losses.forget.bs_s import BootstrapSequenceLoss
from hf_unlearn.losses.forget.bs_t import BootstrapTokenLoss
from hf_unlearn.losses.forget.ce_u import CrossEntropyUnlearningLoss
from hf_unlearn.losses.forget.ga import GradientAscentLoss
from hf_unlearn.losses.forget.max_entropy import MaxEntropyLoss
from hf_unlearn.losses.forget.npo import NPOLoss
from hf_unlearn.losses.forget.satimp import SatImpLoss
from hf_unlearn.losses.forget.simnpo import SimNPOLoss
from hf_unlearn.losses.forget.wga import WeightedGradientAscentLoss
from hf_unlearn.losses.retain.kl import KLRetainLoss
from hf_unlearn.losses.retain.none import NoRetainLoss

DETACHED = (
    CrossEntropyUnlearningLoss,
    WeightedGradientAscentLoss,
    SatImpLoss,
    BootstrapTokenLoss,
    BootstrapSequenceLoss,
)
WITHOUT_DETACHED_WEIGHTS = {name: case for name, case in CASES.items() if not isinstance(case[0], DETACHED)}
EVERY_LOSS = pytest.mark.parametrize(("loss", "by_hand"), CASES.values(), ids=CASES)


@EVERY_LOSS
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_is_its_formula(loss, by_hand, seed):
    batch = Batch(seed)
    assert loss(batch.scores_for(loss)).mean.item() == pytest.approx(by_hand(batch), rel=1e-12)


@EVERY_LOSS
def test_loss_of_half_precision_is_computed_in_single(loss, by_hand):
    batch = Batch(3, torch.bfloat16)
    result = loss(batch.scores_for(loss))
    assert result.total.dtype == torch.float32
    assert result.mean.item() == pytest.approx(by_hand(batch), rel=1e-5)


@EVERY_LOSS
def test_count_is_known_before_the_forward_pass(loss, by_hand):
    batch = Batch(4)
    assert loss.count(batch.counted_labels(loss)) == loss(batch.scores_for(loss)).count
    counted = batch if loss.uses_labels else batch.alternates
    expected = len(counted.labelled_rows()) if isinstance(loss, COUNTS_ROWS) else len(counted.terms())
    if isinstance(loss, CrossEntropyUnlearningLoss):
        expected -= loss.skip_first * len(batch.labelled_rows())
    assert int(loss.count(batch.counted_labels(loss))) == expected


@EVERY_LOSS
def test_splitting_and_order_change_neither_loss_nor_gradient(loss, by_hand):
    def loss_and_gradients(parts: list[list[int]]) -> tuple[float, list[torch.Tensor | None]]:
        batch = Batch(5)
        leaves = batch.leaves()
        sums: list[LossSum] = [loss(batch.scores_for(loss, part)) for part in parts]
        mean = sum(part.total for part in sums) / sum(int(part.count) for part in sums)
        mean.backward()
        return mean.item(), [leaf.grad for leaf in leaves if leaf.grad is not None]

    whole, whole_gradients = loss_and_gradients([[0, 1, 2, 3, 4]])
    assert whole_gradients and any(bool(gradient.any()) for gradient in whole_gradients)
    for parts in ([[4, 2, 0, 3, 1]], [[0], [1, 2, 3, 4]], [[4], [3, 0], [1], [2]]):
        split, gradients = loss_and_gradients(parts)
        assert split == pytest.approx(whole, rel=1e-12)
        for gradient, expected in zip(gradients, whole_gradients, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@EVERY_LOSS
def test_no_labels_is_zero_and_differentiable(loss, by_hand):
    batch = Batch(6)
    for part in (batch, batch.alternates):
        part.labels[:] = IGNORED
        part.reference_logps[:] = 0.0
    leaves = batch.leaves()
    result = loss(batch.scores_for(loss))
    result.mean.backward()
    assert result.mean.item() == 0.0
    assert int(result.count) == 0
    assert not any(leaf.grad.any() for leaf in leaves if leaf.grad is not None)


@pytest.mark.parametrize(("loss", "by_hand"), WITHOUT_DETACHED_WEIGHTS.values(), ids=WITHOUT_DETACHED_WEIGHTS)
def test_a_gradient_is_that_of_finite_differences(loss, by_hand):
    batch = Batch(7)
    leaves = batch.leaves()
    loss(batch.scores_for(loss)).mean.backward()
    kept = [(leaf, leaf.grad) for leaf in leaves if leaf.grad is not None]
    for leaf, gradient in kept:
        direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0), dtype=leaf.dtype)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                leaf.add_(step * direction)
                values.append(by_hand(batch))
                leaf.sub_(step * direction)
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-7)


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


def test_simnpo_without_length_is_npo_against_a_reference_that_gives_every_answer_probability_one():
    batch = Batch(15)
    for row in batch.labelled_rows():  # one label a row, so that sum and mean are the same
        batch.labels[row] = torch.where(torch.arange(7) == 4, 3, IGNORED)
    batch.reference_logps[:] = 0.0
    assert SimNPOLoss(beta=0.8)(batch.scores()).mean.item() == pytest.approx(
        NPOLoss(beta=0.8)(batch.scores()).mean.item(), rel=1e-12
    )


def test_weights_of_exponent_zero_are_plain_gradient_ascent():
    plain = Batch(16).gradient_of(GradientAscentLoss())
    for loss in (WeightedGradientAscentLoss(beta=0.0), SatImpLoss(beta1=0.0, beta2=0.0)):
        torch.testing.assert_close(Batch(16).gradient_of(loss), plain)


def test_the_weight_of_a_token_carries_no_gradient():
    """The gradient of a token is its weight times that of plain ascent."""
    batch = Batch(17)
    weighted, plain = batch.gradient_of(WeightedGradientAscentLoss()), Batch(17).gradient_of(GradientAscentLoss())
    for row, time, label in batch.terms():
        probability = math.exp(batch.logp(batch.logits.detach(), row, time, label))
        torch.testing.assert_close(weighted[row, time], probability * plain[row, time])


def test_bounded_losses_stop_pushing_what_is_forgotten():
    for loss in (CrossEntropyUnlearningLoss(skip_first=0), WeightedGradientAscentLoss(), SimNPOLoss()):
        batch = Batch(18)
        for row, time, label in batch.terms():
            batch.logits[row, time, label] = -60.0
        assert batch.gradient_of(loss).abs().max() < 1e-9, type(loss).__name__


def test_ce_u_leaves_the_proportions_of_the_other_tokens_alone():
    batch = Batch(19)
    gradient = batch.gradient_of(CrossEntropyUnlearningLoss(skip_first=0))
    row, time, label = batch.terms()[0]
    others = [token for token in range(VOCABULARY) if token != label]
    shares = batch.logits.detach()[row, time, others].softmax(0)
    part = gradient[row, time, others]
    torch.testing.assert_close(part / part.sum(), shares)  # each grows by its own share
    assert gradient[row, time, label] > 0


def test_max_entropy_is_zero_at_uniform_and_greatest_when_certain():
    batch = Batch(20)
    batch.logits = torch.zeros_like(batch.logits)
    assert MaxEntropyLoss()(batch.scores()).mean.item() == pytest.approx(0.0, abs=1e-12)
    for row, time, label in batch.terms():
        batch.logits[row, time, label] = 1000.0
    assert MaxEntropyLoss()(batch.scores()).mean.item() == pytest.approx(math.log(VOCABULARY), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SimNPOLoss(beta=0.0), "beta"),
        (lambda: SimNPOLoss(gamma=-0.1), "gamma"),
        (lambda: WeightedGradientAscentLoss(beta=-1.0), "beta"),
        (lambda: SatImpLoss(beta2=-1.0), "beta2"),
        (lambda: CrossEntropyUnlearningLoss(skip_first=-1), "skip_first"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, named):
    with pytest.raises(RequestError, match=named):
        make()


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


ALL_LOSSES = [entry for registry in (FORGET_LOSSES, RETAIN_LOSSES) for entry in registry.entries()]


@pytest.mark.parametrize("entry", ALL_LOSSES, ids=lambda entry: entry.name)
def test_registries_name_paper_and_needs(entry):
    assert entry.summary
    assert entry.paper or entry.name == "none"
    loss = entry.value(**entry.defaults)
    assert ("reference" in entry.needs) == loss.needs_reference
    assert ("alternates" in entry.needs) == loss.needs_alternates
    assert ("hidden states" in entry.needs) == (loss.hidden_layer is not None)


def test_every_loss_of_the_catalogue_is_there():
    forget = {"ga", "npo", "simnpo", "dpo", "idk-dpo", "altpo", "idk-nll", "rmu", "undial", "wga", "satimp", "ce-u"}
    forget |= {"max-entropy", "pdu", "random-incorrect", "fixed-incorrect", "jensen-shannon"}
    assert forget | {"margin", "margin-to-reference"} <= set(FORGET_LOSSES.names())
    assert {"none", "nll", "kl", "hidden", "jensen-shannon"} <= set(RETAIN_LOSSES.names())


@pytest.mark.parametrize("entry", ALL_LOSSES, ids=lambda entry: entry.name)
def test_every_loss_says_what_it_costs(entry):
    assert "Cost: " in entry.value.__doc__


@pytest.mark.parametrize("registry", [FORGET_LOSSES, RETAIN_LOSSES])
def test_every_loss_has_a_file_of_its_own(registry):
    files = [entry.value.__module__ for entry in registry.entries()]
    assert len(set(files)) == len(files)
