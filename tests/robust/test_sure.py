"""SURE as its paper defines it: scores once at the original weights, a hard threshold, nothing else ever moves."""

import copy
import json

import numpy as np
import pytest
import torch
from tiny_run import tiny_model, tiny_rows, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.robust import ROBUST
from hf_unlearn.robust.sure import MASK_FILE, SURE, select_modules, trainable_modules


def sure_trainer(folder, model=None, percentile=70.0, **settings):
    return tiny_trainer(folder, model, robust=[{"name": "sure", "percentile": percentile}], **settings)


def read_mask(folder):
    return json.loads((folder / MASK_FILE).read_text())


def module_of(parameter_name):
    return parameter_name.rpartition(".")[0]


@pytest.mark.parametrize("loss_type", ["ga", "npo"])
@pytest.mark.parametrize("batch_size", [3, 8])
def test_saliency_is_the_gradient_norm_over_the_whole_forget_set(tmp_path, loss_type, batch_size):
    """Against autograd in double precision, row by row without padding. At the original weights the gradient of NPO
    is that of the mean over rows of the summed log-probabilities."""
    model = tiny_model()
    trainer = sure_trainer(
        tmp_path, copy.deepcopy(model), loss_type=loss_type, per_device_train_batch_size=batch_size, max_steps=1
    )
    trainer.train()

    exact = copy.deepcopy(model).double()
    total, count = 0.0, 0
    for row in trainer.train_dataset.forget:
        logps = torch.log_softmax(exact(torch.tensor([row.input_ids])).logits[0], dim=-1)
        times = range(row.n_prompt, len(row.input_ids))
        total = total + sum(logps[time - 1, row.input_ids[time]] for time in times)
        count += len(times) if loss_type == "ga" else 1
    names = [name for name, _ in exact.named_parameters()]
    gradients = torch.autograd.grad(total / count, list(exact.parameters()))
    expected: dict[str, float] = {}
    for name, gradient in zip(names, gradients, strict=True):
        expected[module_of(name)] = expected.get(module_of(name), 0.0) + float((gradient**2).sum())
    scores = read_mask(tmp_path)["scores"]
    assert scores.keys() == expected.keys()
    for name, square in expected.items():
        assert scores[name] == pytest.approx(square**0.5, rel=1e-4)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_unselected_modules_are_bit_identical_and_selected_ones_move(tmp_path, optim):
    model = tiny_model()
    before = weights(model)
    trainer = sure_trainer(
        tmp_path, model, optim=optim, weight_decay=0.1, learning_rate=1e-2, max_steps=6, retain_weight=2.0
    )
    trainer.train()
    selected = set(read_mask(tmp_path)["selected"])
    assert 0 < len(selected) < len(read_mask(tmp_path)["scores"])
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, before[name]) == (module_of(name) not in selected), name


def test_unselected_modules_take_no_optimizer_memory(tmp_path):
    trainer = sure_trainer(tmp_path)
    trainer.train()
    stepped = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    selected = set(read_mask(tmp_path)["selected"])
    for name, parameter in trainer.model.named_parameters():
        assert (id(parameter) in stepped) == (module_of(name) in selected)


def test_no_gradient_is_left_behind(tmp_path):
    trainer = sure_trainer(tmp_path)
    trainer._prepare_run(resuming=False)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_scoring_leaves_weights_alone(tmp_path):
    model = tiny_model()
    before = weights(model)
    sure_trainer(tmp_path, model)._prepare_run(resuming=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


def test_mask_is_chosen_at_the_original_weights_and_kept(tmp_path):
    """Scores of the trained weights would select other modules; neither a longer run nor a resumed one uses them."""
    settings = {"max_steps": 8, "learning_rate": 3e-2, "save_strategy": "steps", "save_steps": 4}
    first = sure_trainer(tmp_path, percentile=80.0, **settings)
    first.train()
    chosen = read_mask(tmp_path)
    trained = sure_trainer(tmp_path / "other", copy.deepcopy(first.model).requires_grad_(True), percentile=80.0)
    trained._prepare_run(resuming=False)
    assert read_mask(tmp_path / "other")["selected"] != chosen["selected"]

    # Even handed the trained weights, a resumed run goes by the file.
    resumed = sure_trainer(tmp_path, copy.deepcopy(first.model).requires_grad_(True), percentile=80.0, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert read_mask(tmp_path) == chosen
    moving = {module_of(name) for name, p in resumed.model.named_parameters() if p.requires_grad}
    assert moving == set(chosen["selected"])


def test_tied_weights_are_one_module(tmp_path):
    model = tiny_model(tie=True)
    trainer = sure_trainer(tmp_path, model, percentile=0.0)
    trainer.train()
    scores = read_mask(tmp_path)["scores"]
    assert "model.embed_tokens" in scores
    assert "lm_head" not in scores
    listed = [id(p) for parameters in trainable_modules(model).values() for p in parameters]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))


def test_tied_weights_can_be_frozen(tmp_path):
    model = tiny_model(tie=True)
    before = weights(model)
    trainer = sure_trainer(tmp_path, model, percentile=100.0)
    trainer._prepare_run(resuming=False)
    only = read_mask(tmp_path)["selected"]
    assert len(only) == 1
    trainer.train()
    moved = {module_of(name) for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert moved <= {*only, "lm_head"}
    assert model.lm_head.weight.requires_grad == (only == ["model.embed_tokens"])


@pytest.mark.parametrize(("percentile", "expected"), [(0, 5), (50, 3), (60, 2), (80, 1), (100, 1)])
def test_threshold(percentile, expected):
    scores = {"a": 0.5, "b": 4.0, "c": 1.0, "d": 0.0, "e": 2.0}
    mask = select_modules(scores, percentile)
    assert len(mask.selected) == expected
    kept = [scores[name] for name in mask.selected]
    assert min(kept) >= mask.threshold
    assert all(scores[name] < mask.threshold for name in scores if name not in mask.selected)
    assert mask.threshold == pytest.approx(np.percentile(sorted(scores.values()), percentile))


def test_equal_scores_are_all_kept():
    assert len(select_modules({"a": 0.1, "b": 0.1, "c": 0.1}, 99.0).selected) == 3


@pytest.mark.parametrize("percentile", [-1, 100.5, float("nan")])
def test_percentile_outside_its_range_is_refused(percentile):
    with pytest.raises(RequestError, match="between 0 and 100"):
        SURE(percentile)


def test_resuming_without_the_mask_is_refused(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    sure_trainer(tmp_path, **settings).train()
    (tmp_path / MASK_FILE).unlink()
    with pytest.raises(RequestError, match=r"sure_mask\.json"):
        sure_trainer(tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_resuming_with_another_percentile_is_refused(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    sure_trainer(tmp_path, percentile=70.0, **settings).train()
    with pytest.raises(RequestError, match="percentile"):
        sure_trainer(tmp_path, percentile=90.0, **settings).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )


def test_a_new_run_in_the_same_folder_scores_anew(tmp_path):
    sure_trainer(tmp_path).train()
    first = read_mask(tmp_path)
    sure_trainer(tmp_path, forget_dataset=tiny_rows("forget", 8, seed=1)).train()
    assert read_mask(tmp_path)["scores"] != first["scores"]


def test_registered():
    entry = ROBUST.get("sure")
    assert "sure" in ROBUST.names()
    assert entry.value(**entry.defaults).percentile == 90.0
    assert "2410.16454" in entry.paper
