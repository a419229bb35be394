"""The closed-form edit: its solution by hand, what it leaves alone, and what it does."""

import pytest
import torch
from tiny_run import tiny_model, tiny_trainer, weights
from transformers import LlamaForCausalLM

from hf_unlearn.errors import RequestError
from hf_unlearn.robust.ridge_edit import RidgeEdit, last_maps, lens_scores, ridge_solution, take_moments

NO_TRAINING = {"max_steps": 0, "retain_loss_type": "none"}


def edit_trainer(folder, model=None, **settings):
    names = ("layers", "strength", "retain_share", "ridge")
    part = {"name": "ridge-edit", "layers": 1, **{key: settings.pop(key) for key in names if key in settings}}
    return tiny_trainer(folder, model, robust=[part], **{**NO_TRAINING, **settings})


def test_the_solution_is_where_the_gradient_of_the_objective_is_zero():
    torch.manual_seed(0)
    x, y, z = (torch.randn(*shape, dtype=torch.float64) for shape in ((20, 6), (20, 4), (30, 6)))
    solution = ridge_solution(x.T @ x / 20, x.T @ y / 20, z.T @ z / 30, kept_share=0.7, ridge=0.05)
    edit = solution.clone().requires_grad_(True)
    penalty = 0.05 * ((x**2).mean(0) + 0.7 * (z**2).mean(0)).mean()
    objective = ((x @ edit.T - y) ** 2).sum() / 20 + 0.7 * ((z @ edit.T) ** 2).sum() / 30 + penalty * (edit**2).sum()
    objective.backward()
    torch.testing.assert_close(edit.grad, torch.zeros_like(edit), rtol=0, atol=1e-12)


def test_retained_inputs_are_left_alone_where_they_do_not_overlap():
    x = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    z = torch.diag(torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    y = torch.randn(4, 3, dtype=torch.float64)
    edit = ridge_solution(x.T @ x, x.T @ y, z.T @ z, 1.0, 1e-12)
    torch.testing.assert_close(x[:2] @ edit.T, y[:2])
    torch.testing.assert_close(z @ edit.T, torch.zeros(4, 3, dtype=torch.float64))


def forwards(model, row):
    """Inputs and outputs of every MLP's last map, and every layer's output, at the row's label positions."""
    taken = []
    handles = [
        module.register_forward_hook(lambda _, given, out: taken.append((given[0], out)))
        for pair in last_maps(model)
        for module in pair[::-1]
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([row.input_ids]))
    for handle in handles:
        handle.remove()
    part = slice(row.n_prompt - 1, -1)
    return [(before[0, part].double(), (o[0] if isinstance(o, tuple) else o)[0, part].double()) for before, o in taken]


def test_moments_and_scores_by_hand(tmp_path):
    trainer = edit_trainer(tmp_path)
    context, model = trainer.training_context(resuming=False), trainer.model.eval()
    head = model.lm_head.weight.detach().double()
    inputs, outputs, residual, directions = [], [[], []], [], []
    for row in context.forget_rows:
        seen = forwards(model, row)
        labels = torch.tensor(row.input_ids[row.n_prompt :])
        kept = labels != 2  # the end of the text
        inputs.append(seen[2][0][kept])  # layer 1: its map comes before it
        residual.append(seen[3][1][kept].norm(dim=1))
        for layer in (0, 1):
            outputs[layer].append(seen[2 * layer][1][kept])
        pointing = head[labels[kept]] - head.mean(0)
        directions.append(pointing / pointing.norm(dim=1, keepdim=True))
    x, u = torch.cat(inputs), torch.cat(directions)
    with torch.no_grad():
        moments = take_moments(context, context.forget_rows, *last_maps(model)[1])
        scores = lens_scores(context, [linear for _, linear in last_maps(model)])
    torch.testing.assert_close(moments.gram, x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.cross, x.T @ u / len(x), rtol=1e-4, atol=1e-6)
    assert moments.residual == pytest.approx(torch.cat(residual).mean().item(), rel=1e-5)
    by_hand = [float((torch.cat(outputs[layer]) * u).sum(1).mean()) for layer in (0, 1)]
    assert scores == pytest.approx(by_hand, rel=1e-4)


def knowing_model() -> LlamaForCausalLM:
    trainer = tiny_trainer("unused", loss_type="nll", retain_loss_type="nll", max_steps=60, learning_rate=5e-3)
    trainer.train()
    return trainer.model.eval()


def mean_logp(trainer, rows):
    context = trainer.training_context(resuming=False)
    with torch.no_grad():
        return torch.cat([context.score(batch).logps for batch in context.batches(rows)]).mean().item()


def test_forget_answers_go_and_retain_answers_stay(tmp_path):
    trainer = edit_trainer(tmp_path, knowing_model(), layers=2, strength=2.0)
    context = trainer.training_context(resuming=False)
    rows, before = (context.forget_rows, context.retain_rows), weights(trainer.model)
    known = [mean_logp(trainer, part) for part in rows]
    assert min(known) > -1
    output = trainer.train()
    assert output.global_step == 0
    after = [mean_logp(trainer, part) for part in rows]
    assert after[0] < known[0] - 5
    assert after[1] > known[1] - 0.1
    changed = {name for name, value in weights(trainer.model).items() if not torch.equal(value, before[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    assert set(trainer.parts[0].outcome()["layers"]) == {"0", "1"}


def test_the_layer_with_the_greatest_score_is_edited(tmp_path):
    trainer = edit_trainer(tmp_path)
    context = trainer.training_context(resuming=False)
    with torch.no_grad():
        scores = lens_scores(context, [linear for _, linear in last_maps(trainer.model)])
    before = weights(trainer.model)
    trainer.train()
    best = scores.index(max(scores))
    changed = [name for name, value in weights(trainer.model).items() if not torch.equal(value, before[name])]
    assert changed == [f"model.layers.{best}.mlp.down_proj.weight"]
    assert trainer.parts[0].outcome() == {"layers": {str(best): pytest.approx(scores[best], abs=1e-3)}}


@pytest.mark.parametrize("settings", [{"layers": 0}, {"strength": 0.0}, {"ridge": 0.0}, {"retain_share": -1.0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match="ridge-edit: "):
        RidgeEdit(**settings)


def test_models_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(RequestError, match="layers is 3, and the model has 2"):
        edit_trainer(tmp_path, layers=3).train()
    model = tiny_model()
    model.model.layers[1].mlp.down_proj = torch.nn.Identity()
    with pytest.raises(RequestError, match="layer 1 of LlamaForCausalLM has 0 linear maps"):
        last_maps(model)


def test_the_retain_rows_are_needed(tmp_path):
    with pytest.raises(RequestError, match="one of the parts needs a retain_dataset"):
        edit_trainer(tmp_path, retain_dataset=None)
