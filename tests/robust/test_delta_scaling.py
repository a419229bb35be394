"""Delta scaling: the search, the score, rounding in place, and whole runs."""

import pytest
import torch
from tiny_run import assert_same, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.models.decoder import linear_weights
from hf_unlearn.quantization.grids import find_grid, on_grid
from hf_unlearn.robust.delta_scaling import DeltaScaling, Evaluation, check_grid, forget_score, rounded, search
from hf_unlearn.robust.weights import Weights
from hf_unlearn.trainer import UnlearnConfig

GRIDS = ["nf4", "int2-g64"]  # the tiny model's rows have 64 weights


def scaled_trainer(folder, model=None, **settings):
    names = ("grids", "max_recovered", "max_kl", "kl_growth", "bisections")
    part = {key: settings.pop(key) for key in names if key in settings}
    part = {"name": "delta-scaling", "grids": GRIDS, **part}
    return tiny_trainer(folder, model, robust=[part], **{"loss_type": "ga", **settings})


def landscape(passes, over):
    """A made-up model: which scales pass, and from which on they cost too much."""
    asked = []

    def evaluate(scale):
        asked.append(scale)
        state = "over" if scale > over else ("passes" if passes(scale) else "short")
        return Evaluation(scale, {}, 0.0, state)

    return evaluate, asked


def test_a_scale_of_one_that_passes_is_all_that_is_tried():
    evaluate, asked = landscape(lambda scale: True, 10)
    search(evaluate, 4.0, 4)
    assert asked == [1.0]


def test_bisection_finds_the_least_scale():
    evaluate, asked = landscape(lambda scale: scale >= 1.7, 10)
    tried = search(evaluate, 4.0, 6)
    assert asked[:3] == pytest.approx([1, 4 ** (1 / 3), 4 ** (2 / 3)])
    best = min(found.scale for found in tried if found.state == "passes")
    assert 1.7 <= best <= 1.7 + (4 ** (2 / 3) - 4 ** (1 / 3)) / 2**6
    assert len(tried) == 3 + 6


def test_a_window_between_too_little_and_too_much_is_found():
    evaluate, _ = landscape(lambda scale: scale >= 1.9, 2.1)
    tried = search(evaluate, 4.0, 5)
    assert any(found.state == "passes" and 1.9 <= found.scale <= 2.1 for found in tried)


@pytest.mark.parametrize(
    ("passes", "over", "count"), [(lambda scale: False, 10, 4), (lambda scale: False, 1.2, 2 + 4)]
)
def test_nothing_passes(passes, over, count):
    evaluate, _ = landscape(passes, over)
    tried = search(evaluate, 4.0, 4)
    assert len(tried) == count
    assert not [found for found in tried if found.state == "passes"]


def test_rounded_weights_are_those_of_the_grid_and_come_back_bit_for_bit():
    model, grid = tiny_model(), find_grid("int4-g32")
    before = weights(model)
    assert "lm_head.weight" not in linear_weights(model)
    assert len(linear_weights(model)) == 2 * 7
    with rounded(model, grid):
        for name, value in weights(model).items():
            if name in linear_weights(model):
                assert torch.equal(value, on_grid(before[name], grid).dequantized())
            else:
                assert torch.equal(value, before[name])
    assert_same(before, weights(model))


def test_forget_score_by_hand(tmp_path):
    trainer = scaled_trainer(tmp_path)
    context = trainer.training_context(resuming=False)
    probabilities = []
    for row in context.forget_rows:
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.tensor([row.input_ids])).logits[0].double()
        logps = logits.log_softmax(-1)[row.n_prompt - 1 : -1]
        labels = torch.tensor(row.input_ids[row.n_prompt :])
        probabilities.append(logps.gather(1, labels[:, None]).mean().exp())
    by_hand = torch.stack(probabilities).mean().item()
    with torch.no_grad():
        assert forget_score(context) == pytest.approx(by_hand, rel=1e-5)


def test_weights_between_and_beyond(tmp_path):
    model = tiny_model()
    original = Weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    trained = Weights(model)
    for share, factor in ((0, None), (1, None), (2.5, 2.5), (-1, -1)):
        original.move(model, trained, share)
        for name, parameter in model.named_parameters():
            start, end = original.tensors[name], trained.tensors[name]
            if factor is None:
                assert torch.equal(parameter, end if share else start)
            else:
                by_hand = start.double() + factor * (end.double() - start.double())
                torch.testing.assert_close(parameter.double(), by_hand, rtol=0, atol=1e-6)


def test_retain_kl_by_hand_and_zero_at_the_target(tmp_path):
    for name, retain in (("kl", "kl"), ("nll", "nll")):
        trainer = scaled_trainer(tmp_path / name, retain_loss_type=retain)
        trainer._prepare_run(resuming=False)
        context = trainer.training_context(resuming=False)
        assert context.retain_kl() == pytest.approx(0, abs=1e-6)
        with torch.no_grad():
            trainer.model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
        target, total, count = tiny_model().eval(), 0.0, 0
        trainer.model.eval()
        for row in context.retain_rows:
            ids = torch.tensor([row.input_ids])
            with torch.no_grad():
                both = [
                    m(input_ids=ids).logits[0, row.n_prompt - 1 : -1].double().log_softmax(-1)
                    for m in (target, trainer.model)
                ]
            total += float((both[0].exp() * (both[0] - both[1])).sum())
            count += len(both[0])
        assert context.retain_kl() == pytest.approx(total / count, rel=1e-3)


def test_what_passes_as_it_stands_is_left_as_it_is(tmp_path):
    plain = tiny_trainer(tmp_path / "plain", loss_type="ga")
    plain.train()
    trainer = scaled_trainer(tmp_path / "scaled", max_recovered=0.99)
    trainer.train()
    outcome = trainer.parts[0].outcome()
    assert (outcome["scale"], outcome["passes"], len(outcome["tried"])) == (1.0, True, 1)
    assert_same(weights(plain.model), weights(trainer.model))


def knowing_model():
    """A model that knows the tiny forget rows, so that there is something a grid can bring back."""
    trainer = tiny_trainer("unused", loss_type="nll", retain_loss_type="nll", max_steps=40, learning_rate=5e-3)
    trainer.train()
    return trainer.model.eval()


HIDES = {"loss_type": "npo", "learning_rate": 1e-3, "max_steps": 20, "control": "bin_hidden"}


def test_what_a_grid_brings_back_is_scaled_away(tmp_path):
    """A model that hides in the bins of a grid is what needs scaling most: at 1 the grid brings back everything."""
    model = knowing_model()
    start = weights(model)
    trainer = scaled_trainer(tmp_path, model, grids=["nf4"], max_recovered=0.2, max_kl=1e3, **HIDES)
    trainer.train()
    outcome = trainer.parts[0].outcome()
    tried = {found["scale"]: found for found in outcome["tried"]}
    assert tried[1.0]["recovered"]["nf4"] == pytest.approx(1.0, abs=1e-3)
    assert outcome["passes"] and 1 < outcome["scale"] <= 4
    assert tried[outcome["scale"]]["recovered"]["nf4"] <= 0.2
    assert tried[outcome["scale"]]["kl"] > tried[1.0]["kl"]
    short = [scale for scale, found in tried.items() if found["state"] == "short"]
    assert outcome["scale"] - max(short) < 0.1
    # the model is what the outcome says: its change is that of the training, scaled
    model = knowing_model()
    assert_same(start, weights(model))
    plain = tiny_trainer(tmp_path / "plain", model, **HIDES)
    plain.train()
    for name, value in weights(plain.model).items():
        by_hand = start[name] + outcome["scale"] * (value - start[name])
        torch.testing.assert_close(weights(trainer.model)[name], by_hand, rtol=0, atol=1e-5)


def test_where_nothing_passes_the_weights_stay_and_it_says_so(tmp_path, caplog):
    trainer = scaled_trainer(
        tmp_path, knowing_model(), grids=["nf4"], max_recovered=0.0, max_kl=0.0, kl_growth=1.0, **HIDES
    )
    trainer.train()
    outcome = trainer.parts[0].outcome()
    assert (outcome["scale"], outcome["passes"]) == (1.0, False)
    assert "the trained weights are kept" in caplog.text
    assert {tried["state"] for tried in outcome["tried"]} == {"short", "over"}
    plain = tiny_trainer(tmp_path / "plain", knowing_model(), **HIDES)
    plain.train()
    assert_same(weights(plain.model), weights(trainer.model))


@pytest.mark.parametrize(
    "settings",
    [
        {"grids": []},
        {"grids": "nf4"},
        {"max_recovered": 1.0},
        {"max_scale": 1.0},
        {"bisections": -1},
        {"max_kl": -1.0},
        {"kl_growth": 0.5},
    ],
)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(RequestError, match="delta-scaling: "):
        DeltaScaling(**settings)


def test_an_unknown_grid_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(RequestError, match="did you mean 'nf4'"):
        UnlearnConfig(output_dir=str(tmp_path), robust=[{"name": "delta-scaling", "grids": ["nf5"]}])


def test_a_grid_that_does_not_fit_is_refused_before_training(tmp_path):
    with pytest.raises(RequestError, match=r"int4-g128 has groups of 128, and model\.layers\.0\.self_attn"):
        tiny_trainer(tmp_path, robust=["delta-scaling"]).train()
    check_grid(tiny_model(), find_grid("fp4"), "x")
