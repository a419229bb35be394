"""GROM: its solution and targets by hand in float64, which layers it edits, what it leaves alone, and what it does."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_run import assert_same, tiny_model, tiny_rows, tiny_trainer, weights
from transformers import LlamaForCausalLM

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.grom import (
    GROM,
    best_band,
    last_maps,
    lens_scores,
    mean_over_labels,
    ridge_solution,
    specificities,
    take_moments,
)

NO_TRAINING = {"max_steps": 0, "retain_loss_type": "none"}
KEYS = ("target", "strength", "layers", "first", "retain_weight", "ridge", "seed")


def edit_trainer(folder, model=None, **settings):
    part = {"name": "grom", "layers": 1, **{key: settings.pop(key) for key in KEYS if key in settings}}
    return tiny_trainer(folder, model, robust=[part], **{**NO_TRAINING, **settings})


def test_the_solution_is_where_the_gradient_of_the_objective_is_zero():
    torch.manual_seed(0)
    x, d, z = (torch.randn(*shape, dtype=torch.float64) for shape in ((20, 6), (20, 4), (30, 6)))
    solution = ridge_solution(x.T @ x / 20, x.T @ d / 20, z.T @ z / 30, kept_weight=0.7, ridge=0.05)
    edit = solution.clone().requires_grad_(True)
    penalty = 0.05 * ((x**2).mean(0) + 0.7 * (z**2).mean(0)).mean()
    objective = ((x @ edit.T - d) ** 2).sum() / 20 + 0.7 * ((z @ edit.T) ** 2).sum() / 30 + penalty * (edit**2).sum()
    objective.backward()
    torch.testing.assert_close(edit.grad, torch.zeros_like(edit), rtol=0, atol=1e-12)


def test_retained_inputs_are_left_alone_where_they_do_not_overlap():
    x = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    z = torch.diag(torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    d = torch.randn(4, 3, dtype=torch.float64)
    edit = ridge_solution(x.T @ x, x.T @ d, z.T @ z, 1.0, 1e-12)
    torch.testing.assert_close(x[:2] @ edit.T, d[:2])
    torch.testing.assert_close(z @ edit.T, torch.zeros(4, 3, dtype=torch.float64))


def label_share(rows, token):
    labels = [found for row in rows for found in row.input_ids[row.n_prompt :]]
    return labels.count(token) / len(labels)


def passes(model, rows):
    """By layer: inputs and outputs of its MLP's last map at all labels of the rows; and the labels."""
    found, labels = [([], []) for _ in last_maps(model)], []
    for row in rows:
        taken = []
        handles = [
            linear.register_forward_hook(lambda _, given, out, taken=taken: taken.append((given[0], out)))
            for _, linear in last_maps(model)
        ]
        with torch.no_grad():
            model(input_ids=torch.tensor([row.input_ids]))
        for handle in handles:
            handle.remove()
        for layer, pair in enumerate(taken):
            for place, tensor in enumerate(pair):
                found[layer][place].extend(tensor[0, row.n_prompt - 1 : -1].double())
        labels += row.input_ids[row.n_prompt :]
    return found, labels


def test_specificity_moments_and_scores_by_hand(tmp_path):
    trainer = edit_trainer(tmp_path)
    context, model = trainer.training_context(resuming=False), trainer.model.eval()
    head = model.lm_head.weight.detach().double()
    (forget, labels), (retain, kept) = (passes(model, rows) for rows in (context.forget_rows, context.retain_rows))
    alpha = {
        token: max(0.0, 1 - label_share(context.retain_rows, token) / label_share(context.forget_rows, token))
        for token in set(labels)
    }
    assert any(0 < value < 1 for value in alpha.values()) and 0.0 in alpha.values()
    gram, cross = torch.zeros(128, 128).double(), torch.zeros(128, 64).double()
    for x, label in zip(forget[1][0], labels, strict=True):
        gram += torch.outer(x, x) / len(labels)
        cross += torch.outer(x, alpha[label] * head[label] / head[label].norm()) / len(labels)
    by_hand = []
    for layer in (0, 1):
        written = [alpha[label] * float(h @ head[label]) for h, label in zip(forget[layer][1], labels, strict=True)]
        of_retain = [float(h @ head[label]) for h, label in zip(retain[layer][1], kept, strict=True)]
        by_hand.append(sum(written) / len(written) - sum(of_retain) / len(of_retain))
    with torch.no_grad():
        specificity = specificities(context)
        moments = take_moments(context, context.forget_rows, last_maps(model)[1][1], specificity)
        scores = lens_scores(context, [linear for _, linear in last_maps(model)], specificity)
    for token, value in alpha.items():
        assert float(specificity[token]) == pytest.approx(value, abs=1e-9)
    assert mean_over_labels(context, specificity) == pytest.approx(sum(alpha[label] for label in labels) / len(labels))
    torch.testing.assert_close(moments.gram, gram, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.cross, cross, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moments.mean, torch.stack(forget[1][0]).mean(0), rtol=1e-5, atol=1e-6)
    assert scores == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(("width", "first"), [(1, 3), (2, 0), (4, 0)])
def test_the_band_with_the_greatest_mean_is_taken(width, first):
    assert best_band([2.0, 3.0, 0.0, 4.0], width) == first


def mean_logp(trainer, rows):
    context = trainer.training_context(resuming=False)
    with torch.no_grad():
        return torch.cat([context.score(batch).logps for batch in context.batches(rows)]).mean().item()


@pytest.fixture(scope="module")
def knowing() -> LlamaForCausalLM:
    trainer = tiny_trainer("unused", loss_type="nll", retain_loss_type="nll", max_steps=60, learning_rate=5e-3)
    trainer.train()
    return trainer.model.eval()


@pytest.mark.parametrize("target", ["suppress", "corrupt"])
def test_forget_answers_go_and_retain_answers_stay(tmp_path, knowing, target):
    trainer = edit_trainer(tmp_path, copy.deepcopy(knowing), layers=2, target=target)
    context = trainer.training_context(resuming=False)
    rows, before = (context.forget_rows, context.retain_rows), weights(trainer.model)
    known = [mean_logp(trainer, part) for part in rows]
    assert min(known) > -1
    output = trainer.train()
    assert output.global_step == 0
    after = [mean_logp(trainer, part) for part in rows]
    assert after[0] < known[0] - 3
    assert after[1] > known[1] - 0.05
    changed = {name for name, value in weights(trainer.model).items() if not torch.equal(value, before[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    assert trainer.parts[0].outcome()["layers"] == [0, 1]


def test_the_layer_with_the_greatest_score_is_edited_unless_one_is_named(tmp_path):
    for first in (-1, 0, 1):
        trainer = edit_trainer(tmp_path, first=first)
        before = weights(trainer.model)
        trainer.train()
        outcome = trainer.parts[0].outcome()
        chosen = outcome["lens"].index(max(outcome["lens"])) if first < 0 else first
        changed = [name for name, value in weights(trainer.model).items() if not torch.equal(value, before[name])]
        assert changed == [f"model.layers.{chosen}.mlp.down_proj.weight"]
        assert outcome["layers"] == [chosen] and 0 < outcome["specificity"] < 1


def test_the_corrupted_output_moves_along_one_direction(tmp_path):
    trainer = edit_trainer(tmp_path, first=1, target="corrupt", strength=3.0, seed=4)
    before = trainer.model.model.layers[1].mlp.down_proj.weight.detach().double().clone()
    trainer.train()
    edit = trainer.model.model.layers[1].mlp.down_proj.weight.detach().double() - before
    direction = torch.randn(64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    along = torch.outer(direction, direction) / direction.square().sum()
    torch.testing.assert_close(along @ edit, edit, rtol=0, atol=1e-6)
    assert edit.norm() > 1e-3


def test_an_edit_without_anything_specific_is_warned_of(tmp_path, caplog):
    others = [replace(row, id=f"r{n}", prompt=f"w1 w2 w3 w{n}") for n, row in enumerate(tiny_rows("forget", 8))]
    trainer = edit_trainer(tmp_path, retain_dataset=others)
    before = weights(trainer.model)
    trainer.train()
    assert_same(weights(trainer.model), before)
    assert "nothing was edited" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [{"layers": 0}, {"first": -2}, {"strength": 0.0}, {"ridge": 0.0}, {"retain_weight": -1.0}, {"target": "supress"}],
)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match=f"grom: {next(iter(settings))} is "):
        GROM(**settings)


def test_models_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"the band needs 3 layers, and the model has 2: lower layers$"):
        edit_trainer(tmp_path, layers=3).train()
    with pytest.raises(RequestError, match="the band needs 3 layers, and the model has 2: lower layers or first"):
        edit_trainer(tmp_path, layers=1, first=2).train()
    model = tiny_model()
    model.model.layers[1].mlp.down_proj = torch.nn.Identity()
    with pytest.raises(RequestError, match="layer 1 of LlamaForCausalLM has 0 linear maps"):
        last_maps(model)


def test_the_retain_rows_are_needed(tmp_path):
    with pytest.raises(RequestError, match="one of the parts needs a retain_dataset"):
        edit_trainer(tmp_path, retain_dataset=None)
