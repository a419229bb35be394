"""Precision views: what is seen, what is compared with what, what is never trained on."""

import copy

import pytest
import torch
from hook_parts import parts_trainer
from peft import LoraConfig, get_peft_model
from test_part_hooks import SGD, term_by_hand
from tiny_run import assert_same, logged, tiny_model, tiny_trainer, weights

from hf_unlearn.errors import RequestError
from hf_unlearn.quantization.grids import find_grid, on_grid
from hf_unlearn.robust.deployed import changed_weights, deployed_layers
from hf_unlearn.robust.precision_views import PrecisionViews, uniform_noise

GRADIENTS = {"loss_type": "ga", "retain_loss_type": "nll", "max_steps": 1, "logging_steps": 1, **SGD}
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def only(grid, **settings):
    return PrecisionViews(grids=[grid], noise=[], plain=False, **settings)


def quantized(model, grid):
    """Every linear layer but the head on the grid."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in other.named_parameters():
            if any(part in name for part in LINEAR):
                value.copy_(on_grid(value, find_grid(grid)).dequantized())
    return other


@pytest.mark.parametrize("grid", ["nf4", "int4-g32", "int8-channel"])
def test_the_gradient_is_that_at_the_quantized_weights_and_steps_the_trained_ones(tmp_path, grid):
    """Straight through, by hand in float64: ``w - rate * gradient(Q(w))``. NLL has no target to compare with: the
    retain term sees the weights as they are."""
    model = tiny_model()
    trainer = parts_trainer(tmp_path, only(grid), model=copy.deepcopy(model), **GRADIENTS)
    trainer.train()
    assert not torch.equal(
        quantized(model, grid).model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight
    )
    forget = term_by_hand(quantized(model, grid), trainer, "forget")[1]
    retain = term_by_hand(model, trainer, "retain")[1]
    after = weights(trainer.model)
    for name, value in weights(model).items():
        expected = value - 0.1 * (forget[name] + retain[name])
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-4, atol=1e-6)


def test_the_retain_term_compares_with_the_target_on_the_same_grid(tmp_path):
    """At the target itself both halves are zero, however coarse the grid; against the plain target they are not."""
    settings = {**GRADIENTS, "retain_loss_type": "kl"}
    with_targets = parts_trainer(tmp_path, only("int2-g32"), **settings)
    with_targets.train()
    assert logged(with_targets)[0]["kl/retain"] == pytest.approx(0.0, abs=1e-6)

    class AgainstPlain(PrecisionViews):
        def reference_views(self, model):
            super().reference_views(model)
            return ()

    part = AgainstPlain(grids=["int2-g32"], noise=[], plain=False)
    against_plain = parts_trainer(tmp_path, part, **settings)
    against_plain.train()
    assert logged(against_plain)[0]["kl/retain"] > 0.01


def test_the_retain_term_is_half_plain_half_on_the_drawn_grids():
    part = PrecisionViews(grids=["nf4", "fp4"], noise=["nf4"], per_step=4)
    part._layers, part._compares, part._drawn = deployed_layers(tiny_model(), "a test"), True, part.pool()
    assert [(view.name, view.weight) for view in part.views("retain")] == [("plain", 1), ("nf4", 0.5), ("fp4", 0.5)]
    part._drawn = ["plain", "noise-nf4"]
    assert part.views("retain") == ()
    part._drawn, part._compares = part.pool(), False
    assert part.views("retain") == ()


def test_every_view_is_drawn_as_often_and_from_seed_and_step_alone(tmp_path):
    part = PrecisionViews(grids=["nf4", "int4-g32"], noise=["nf4"], per_step=2)

    class Context:
        model = tiny_model()

    drawn = []
    for step in range(400):
        Context.step = step
        part.before_step(Context)
        assert len(set(part._drawn)) == 2
        drawn.append(tuple(part._drawn))
    counts = {name: sum(name in names for names in drawn) for name in part.pool()}
    assert all(150 < count < 250 for count in counts.values()), counts
    again = PrecisionViews(grids=["nf4", "int4-g32"], noise=["nf4"], per_step=2)
    again.before_step(Context)
    assert tuple(again._drawn) == drawn[-1]


def test_weights_come_back_bit_for_bit():
    model = tiny_model()
    before, part = weights(model), PrecisionViews(grids=["nf4", "int4-g32"], noise=["nf4"], per_step=4)

    class Context:
        step = 0

    Context.model = model
    part.before_step(Context)
    changed = set()
    for view in part.views("forget"):
        with view.enter():
            inside = weights(model)
            different = {name for name in before if not torch.equal(before[name], inside[name])}
            assert all(any(each in name for each in LINEAR) for name in different)
            changed.add((view.name, len(different)))
        assert_same(weights(model), before)
    assert changed == {("plain", 0), ("nf4", 14), ("int4-g32", 14), ("noise-nf4", 14)}


@pytest.mark.parametrize("grid", ["int4-g32", "nf4"])
def test_noise_stays_within_half_a_bin_and_has_the_spread_of_one(grid):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    moved = uniform_noise(weight, find_grid(grid), "a")
    placed = on_grid(weight, find_grid(grid))
    share = (moved - weight) / placed.restore(placed.steps())
    assert float(share.abs().max()) <= 0.5 + 1e-5
    assert float(share.std()) == pytest.approx(12**-0.5, rel=0.05)
    assert abs(float(share.mean())) < 0.02
    assert torch.equal(moved, uniform_noise(weight, find_grid(grid), "a"))
    assert not torch.equal(moved, uniform_noise(weight, find_grid(grid), "b"))


def test_scales_are_stored_in_the_type_that_is_saved():
    model = tiny_model()
    weight = model.model.layers[0].mlp.up_proj.weight
    layers = deployed_layers(model, "a test")
    found = {}
    for dtype in ("float32", "bfloat16"):
        part = only("int4-g32", dtype=dtype)
        with part._on_grid(layers, "int4-g32"):
            found[dtype] = weight.detach().clone()
    exact = on_grid(weight.to(torch.bfloat16), find_grid("int4-g32"), torch.bfloat16).dequantized()
    assert torch.equal(found["bfloat16"], exact)
    assert not torch.equal(found["float32"], found["bfloat16"])


# ---- Adapters ----


def lora(model, **settings):
    torch.manual_seed(3)
    made = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], **settings))
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.05)
    return made


def test_with_lora_the_merged_weights_are_what_is_quantized():
    """The model under the view answers as the merged, quantized one; gradients reach the adapters."""
    model = lora(tiny_model())
    merged = quantized(copy.deepcopy(model).merge_and_unload(), "int4-g32")
    before = weights(model)
    ids = torch.tensor([[1, 5, 9, 13, 17]])
    layers = deployed_layers(model, "a test")
    assert len(layers) == 14
    with only("int4-g32")._on_grid(layers, "int4-g32"):
        logits = model(ids).logits
        torch.testing.assert_close(logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
        logits.sum().backward()
    assert_same(weights(model), before)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert gradients
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients.values())


def test_with_adapters_off_the_target_is_quantized_without_them(tmp_path):
    """New adapters are zero at first, so that model and target agree under every view."""
    settings = {**GRADIENTS, "retain_loss_type": "kl", "peft_config": LoraConfig(r=4, target_modules=["up_proj"])}
    trainer = parts_trainer(tmp_path, only("int2-g32"), **settings)
    trainer.train()
    assert logged(trainer)[0]["kl/retain"] == pytest.approx(0.0, abs=1e-6)


def test_adapters_that_are_not_plain_lora_are_refused():
    with pytest.raises(RequestError, match="use_dora"):
        deployed_layers(lora(tiny_model(), use_dora=True), "precision-views")


def test_weights_that_are_quantized_already_are_refused():
    model = tiny_model()
    packed = torch.nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    model.model.layers[0].mlp.up_proj.weight = packed
    with pytest.raises(RequestError, match=r"model.layers.0.mlp.up_proj is already stored quantized"):
        deployed_layers(model, "precision-views")


def test_tied_weights_and_the_head_are_left_alone():
    model = tiny_model(tie=True)
    assert not [layer for layer in deployed_layers(model, "a test") if layer.parameter is model.lm_head.weight]
    shared = tiny_model()
    shared.model.layers[1].mlp.up_proj.weight = shared.model.layers[0].mlp.up_proj.weight
    before = weights(shared)
    with changed_weights(deployed_layers(shared, "a test"), lambda name, weight: weight + 1):
        inside = shared.model.layers[0].mlp.up_proj.weight
        torch.testing.assert_close(inside - before["model.layers.0.mlp.up_proj.weight"], torch.ones_like(inside))
    assert_same(weights(shared), before)


# ---- What is refused ----


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"grids": ["nf5"]}, "did you mean 'nf4'"),
        ({"noise": ["int4-g31"]}, "there is no grid 'int4-g31'"),
        ({"hold_out": ["int9"]}, "there is no grid 'int9'"),
        ({"grids": "nf4"}, "must be a list"),
        ({"grids": ["nf4"], "hold_out": ["nf4"]}, "nf4 is both held out and trained on"),
        ({"noise": ["int4-g32"], "hold_out": ["int4-g32"]}, "int4-g32 is both held out and trained on"),
        ({"grids": ["nf4"], "noise": [], "plain": False, "per_step": 2}, "from 1 to 1"),
        ({"per_step": 0}, "per_step is 0"),
        ({"grids": [], "noise": [], "plain": False}, "from 1 to 0"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_a_model_is_loaded(tmp_path, settings, sentence):
    with pytest.raises(RequestError, match=sentence):
        tiny_trainer(tmp_path, model="a model that is nowhere", robust=[{"name": "precision-views", **settings}])


def test_a_grid_that_does_not_fit_is_refused_before_the_first_step(tmp_path):
    trainer = tiny_trainer(tmp_path, robust=[{"name": "precision-views", "grids": ["int4-g128"], "noise": []}])
    with pytest.raises(RequestError, match="int4-g128 needs input sizes in multiples of 128"):
        trainer.train()


def test_a_held_out_grid_is_never_entered(tmp_path):
    part = {"name": "precision-views", "grids": ["nf4"], "noise": ["int4-g32"], "hold_out": ["fp4"], "per_step": 2}
    trainer = tiny_trainer(tmp_path, robust=[part], max_steps=4)
    entered = set()
    views = trainer.parts[0].views
    trainer.parts[0].views = lambda term: (found := views(term)) and (entered.update(v.name for v in found) or found)
    trainer.train()
    assert entered == {"plain", "nf4", "noise-int4-g32"}
    assert set(trainer.references) == {"forget", "retain", "retain@nf4"}
