"""FRP: importances and scores by hand in float64, and what a run prunes."""

import pytest
import torch
from tiny_run import tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.models.activation_norms import input_norms
from hf_unlearn.models.decoder import linear_layers
from hf_unlearn.robust.frp import FRP, importances, prune_scores, ranks

KEYS = ("share", "magnitude", "retain", "form", "modules")


def frp_trainer(folder, **settings):
    part = {"name": "frp", **{key: settings.pop(key) for key in KEYS if key in settings}}
    return tiny_trainer(folder, robust=[part], max_steps=0, retain_loss_type="none", **settings)


def by_hand(weight, forget, retain, magnitude, penalty, form):
    """Scores of one row of a matrix, by plain Python."""
    n = len(weight)

    def rank(values):
        order = sorted(range(n), key=lambda place: (values[place], place))
        return [order.index(place) for place in range(n)]

    size = [abs(value) for value in weight]
    ratio = [f / (r + 1e-6) for f, r in zip(forget, retain, strict=True)]
    kept = [s * r / (f + 1e-6) for s, f, r in zip(size, forget, retain, strict=True)]
    if form == "equation":
        important = rank([s * q for s, q in zip(size, ratio, strict=True)])
        return [a - penalty * b + magnitude * c for a, b, c in zip(important, rank(kept), rank(size), strict=True)]
    scores = [a + magnitude * c for a, c in zip(rank(ratio), rank(size), strict=True)]
    for place in sorted(range(n), key=lambda place: -kept[place])[: int(penalty * n)]:
        scores[place] = float("-inf")
    return scores


@pytest.mark.parametrize("form", ["released", "equation"])
@pytest.mark.parametrize(("magnitude", "penalty"), [(0.05, 0.0), (0.4, 0.25), (0.0, 0.5)])
def test_scores_by_hand(form, magnitude, penalty):
    torch.manual_seed(0)
    weight = torch.randn(3, 8, dtype=torch.float64)
    forget, retain = (torch.rand(8, dtype=torch.float64) + 0.1 for _ in range(2))
    found = prune_scores(weight, forget, retain, magnitude, penalty, form)
    for row in range(3):
        expected = by_hand(weight[row].tolist(), forget.tolist(), retain.tolist(), magnitude, penalty, form)
        assert found[row].tolist() == pytest.approx(expected, rel=1e-6)


def test_importances_are_the_weight_times_the_ratio():
    important, kept = importances(torch.tensor([[-2.0, 3.0]]), torch.tensor([4.0, 1.0]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(important, torch.tensor([[8.0, 1.5]]), rtol=1e-5, atol=0)
    torch.testing.assert_close(kept, torch.tensor([[0.5, 6.0]]), rtol=1e-5, atol=0)


def test_ranks_are_within_rows_and_ties_keep_their_order():
    assert ranks(torch.tensor([[3.0, 1.0, 1.0], [0.0, 5.0, -1.0]])).tolist() == [[2, 0, 1], [1, 2, 0]]


def test_lengths_of_inputs_are_means_over_rows_without_padding(tmp_path):
    trainer = frp_trainer(tmp_path)
    context = trainer.training_context(resuming=False)
    layers = linear_layers(trainer.model)
    found = input_norms(layers, context.batches(context.forget_rows), context.score)
    name = "model.layers.1.mlp.down_proj"
    total = torch.zeros(128, dtype=torch.float64)
    for row in context.forget_rows:
        kept = []
        handle = layers[name].register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0]))
        with torch.no_grad():
            trainer.model(input_ids=torch.tensor([row.input_ids]))
        handle.remove()
        total += kept[0][0].double().square().sum(0).sqrt()
    torch.testing.assert_close(found[name].double(), total / len(context.forget_rows), rtol=1e-4, atol=1e-6)
    assert set(found) == set(layers)


def test_a_run_prunes_so_much_of_each_row_where_the_score_is_greatest(tmp_path):
    trainer = frp_trainer(tmp_path, share=0.05, retain=0.1)
    context = trainer.training_context(resuming=False)
    layers = linear_layers(trainer.model)
    lengths = [
        input_norms(layers, context.batches(rows), context.score)
        for rows in (context.forget_rows, context.retain_rows)
    ]
    before = weights(trainer.model)
    assert trainer.train().global_step == 0
    after = weights(trainer.model)
    for name in before:
        pruned = before[name] != after[name]
        if ".mlp." not in name:
            assert not pruned.any()
            continue
        assert not after[name][pruned].any()
        each = int(0.05 * before[name].shape[1])
        assert pruned.sum(1).tolist() == [each] * len(pruned)
        forget, retain = (length[name.removesuffix(".weight")] for length in lengths)
        scores = prune_scores(before[name], forget, retain, 0.05, 0.1, "released")
        assert (scores[pruned].view(-1, each).amin(1) >= scores.masked_fill(pruned, -torch.inf).amax(1)).all()
    assert trainer.parts[0].outcome()["pruned"] == pytest.approx(0.0475, abs=0.005)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1.0}, "share is 1.0"),
        ({"magnitude": -0.1}, "magnitude is"),
        ({"retain": -0.1}, "retain is"),
        ({"retain": 0.99}, "it must leave the share 0.03 of a row"),
        ({"form": "release"}, "did you mean 'released'"),
    ],
)
def test_values_out_of_range_are_refused(settings, named):
    with pytest.raises(RequestError, match=f"frp: .*{named}"):
        FRP(**settings)


def test_what_cannot_be_pruned_is_refused(tmp_path):
    with pytest.raises(RequestError, match="frp: no linear layer has 'experts' in its name"):
        frp_trainer(tmp_path, modules="experts").train()
    with pytest.raises(RequestError, match=r"frp: share 0.001 is less than one weight of a row"):
        frp_trainer(tmp_path, share=0.001).train()
