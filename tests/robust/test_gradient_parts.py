"""The sign filter and the row mask: which gradients they let through, and that nothing else moves."""

import copy
import math

import numpy as np
import pytest
import torch
from hook_parts import parts_trainer
from test_part_hooks import SGD, term_by_hand
from tiny_run import tiny_model, tiny_trainer, weights
from transformers import TrainerCallback

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.sign_filter import SignFilter
from hf_unlearn.robust.sure_rows import SureRows, row_scores, select_rows

GRADIENTS = {"loss_type": "ga", "retain_loss_type": "nll", "max_steps": 1, **SGD}


def tensors(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


# ---- Sign filter ----


def test_entries_that_work_against_the_retain_set_are_dropped():
    part = SignFilter(momentum=0.0)
    forget, retain = tensors(w=[1.0, -2.0, 3.0, 0.0]), tensors(w=[0.5, 0.5, 0.0, 1.0])
    found = part.change_gradients({"forget": forget, "retain": retain})
    assert found["forget"]["w"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert found["retain"]["w"].tolist() == retain["w"].tolist()


def test_the_retain_gradient_is_accumulated():
    part = SignFilter(momentum=0.75)
    for step in ([4.0, -1.0], [-1.0, -1.0]):  # accumulated: [1, -0.25], then [0.5, -0.4375]
        found = part.change_gradients({"forget": tensors(w=[1.0, 1.0]), "retain": tensors(w=step)})
        assert found["forget"]["w"].tolist() == [1.0, 0.0]
    assert part._retain["w"].tolist() == [0.5, -0.4375]
    # A step without a retain term goes by what there is.
    assert part.change_gradients({"forget": tensors(w=[-1.0, -1.0])})["forget"]["w"].tolist() == [0.0, -1.0]


def test_before_any_retain_gradient_nothing_is_filtered():
    gradients = {"forget": tensors(w=[1.0, -1.0])}
    assert SignFilter(norm=3.0).change_gradients(gradients) == gradients


def test_the_norm_is_that_of_the_whole_gradient_before_it_is_filtered():
    part = SignFilter(momentum=0.0, norm=10.0)
    forget, retain = tensors(a=[3.0, 0.0], b=[-4.0]), tensors(a=[1.0, 1.0], b=[1.0])
    found = part.change_gradients({"forget": forget, "retain": retain})["forget"]
    assert found["a"].tolist() == [6.0, 0.0]
    assert found["b"].tolist() == [0.0]


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (1, 4)])
def test_a_filtered_step_by_hand(tmp_path, batch_size, accumulation):
    model = tiny_model()
    trainer = parts_trainer(
        tmp_path,
        SignFilter(),
        model=copy.deepcopy(model),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        **GRADIENTS,
    )
    trainer.train()
    forget, retain = (term_by_hand(model, trainer, term)[1] for term in ("forget", "retain"))
    agreeing, total = 0, 0
    for name, value in weights(model).items():
        agree = forget[name].sign() == retain[name].sign()
        expected = value - 0.1 * (forget[name] * agree + retain[name])
        # Entries whose gradient is rounding noise may fall on either side of zero.
        clear = torch.minimum(forget[name].abs(), retain[name].abs()) > 1e-6
        torch.testing.assert_close(weights(trainer.model)[name].double()[clear], expected[clear], rtol=1e-4, atol=1e-6)
        agreeing, total = agreeing + int(agree[clear].sum()), total + int(clear.sum())
    assert 0.2 * total < agreeing < 0.8 * total


def test_signs_of_rounding_errors_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"retain_loss_type kl is zero at the start.*use nll"):
        tiny_trainer(tmp_path, "a model that is nowhere", robust=["sign-filter"], retain_loss_type="kl")


def test_the_sign_filter_needs_a_retain_loss(tmp_path):
    with pytest.raises(RequestError, match="needs a retain loss"):
        tiny_trainer(tmp_path, robust=["sign-filter"], retain_loss_type="none")


# ---- SURE by rows ----


def test_rows_are_scored_by_norm_and_elements_of_vectors_by_magnitude():
    matrix, cube = [[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], [[[1.0, 2.0], [2.0, 0.0]]]
    scores = row_scores(tensors(matrix=matrix, cube=cube, vector=[-2.0, 0.5]))
    assert scores["matrix"].tolist() == [5.0, 0.0, 1.0]
    assert scores["cube"].tolist() == [3.0]
    assert scores["vector"].tolist() == [2.0, 0.5]


@pytest.mark.parametrize("percentile", [0, 40, 75, 100])
def test_one_percentile_for_all_rows(percentile):
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.rand(size, generator=generator) for name, size in (("a", 50), ("b", 7))}
    together = torch.cat(list(scores.values())).numpy()
    threshold = np.percentile(together, percentile)
    mask = select_rows(scores, percentile)
    for name, rows in scores.items():
        assert mask[name].tolist() == [float(score) >= threshold - 1e-9 for score in rows]
    assert any(bool(rows.any()) for rows in mask.values())


def test_rows_without_a_gradient_are_never_selected():
    """Nine of ten vocabulary rows do not occur: the 50th percentile is zero."""
    scores = {"embedding": torch.tensor([0.0] * 9 + [1.0]), "norm": torch.tensor([0.0, 0.2])}
    mask = select_rows(scores, 50)
    assert mask["embedding"].tolist() == [False] * 9 + [True]
    assert mask["norm"].tolist() == [False, True]


class Rows(TrainerCallback):
    """The mask of each step, and the weights around it."""

    def __init__(self, part):
        self.part, self.steps = part, []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before = weights(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append(
            ({name: rows.clone() for name, rows in self.part._mask.items()}, self.before, weights(model))
        )


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_rows_outside_the_mask_stay_bit_identical_and_those_inside_move(tmp_path, optim):
    """With momentum and weight decay, which move what has no gradient."""
    part = SureRows(percentile=70)
    settings = {"optim": optim, "learning_rate": 1e-2, "weight_decay": 0.1, "max_steps": 4, "retain_weight": 2.0}
    trainer = parts_trainer(tmp_path, part, **settings)
    trainer.add_callback(watch := Rows(part))
    trainer.train()
    masks = [mask for mask, _, _ in watch.steps]
    assert any(not torch.equal(masks[0][name], masks[-1][name]) for name in masks[0])
    for mask, before, after in watch.steps:
        selected = sum(int(rows.sum()) for rows in mask.values()) / sum(rows.numel() for rows in mask.values())
        assert selected == pytest.approx(0.3, abs=0.02)
        for name, rows in mask.items():
            same = (before[name] == after[name]).view(len(rows), -1).all(1)
            assert bool(same[~rows].all()), name
            assert not bool(same[rows].any()), name


def test_the_mask_follows_the_forget_gradient_of_the_whole_step(tmp_path):
    model, part = tiny_model(), SureRows(percentile=80)
    settings = {**GRADIENTS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    trainer = parts_trainer(tmp_path, part, model=copy.deepcopy(model), **settings)
    trainer.train()
    forget = term_by_hand(model, trainer, "forget")[1]
    scores = {name: [math.sqrt(float(row.square().sum())) for row in gradient] for name, gradient in forget.items()}
    threshold = np.percentile(sorted(score for rows in scores.values() for score in rows), 80)
    for name, rows in scores.items():
        for row, score in enumerate(rows):
            if abs(score - threshold) > 1e-4 * threshold:
                assert bool(part._mask[name][row]) == (score >= threshold), (name, row)


def test_a_step_without_a_forget_term_keeps_the_last_mask(tmp_path):
    part = SureRows(percentile=70)
    cycles = {"name": "cycles", "unlearn_steps": 1, "heal_steps": 2}
    trainer = tiny_trainer(tmp_path, robust=[cycles, {"name": "sure-rows", "percentile": 70}], max_steps=3)
    part = trainer.parts[1]
    trainer.add_callback(watch := Rows(part))
    trainer.train()
    for mask, before, after in watch.steps:
        for name, rows in mask.items():
            assert torch.equal(rows, watch.steps[0][0][name])
            assert torch.equal(before[name][~rows], after[name][~rows])


def test_rows_need_a_forget_gradient_to_begin_with():
    with pytest.raises(RequestError, match="begin with forget steps"):
        SureRows().change_gradients({"retain": tensors(w=[1.0])})


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        (SignFilter, {"momentum": 1.0}),
        (SignFilter, {"norm": -1.0}),
        (SureRows, {"percentile": 101.0}),
        (SureRows, {"percentile": -1.0}),
    ],
)
def test_numbers_out_of_range_are_refused(part, settings):
    with pytest.raises(RequestError, match=f"{next(iter(settings))} is"):
        part(**settings)


def test_a_gradient_that_is_not_finite_is_refused():
    with pytest.raises(RequestError, match="not finite"):
        select_rows({"w": torch.tensor([1.0, float("nan")])}, 50)
