"""The control is only worth something if the real quantizer cannot tell it from the original."""

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_quant, quantize_4bit
from tiny_run import logged, tiny_model, tiny_trainer, weights
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_unlearn.controls import CONTROLS
from hf_unlearn.controls.bin_hidden import BinHidden, bin_bounds
from hf_unlearn.errors import RequestError
from hf_unlearn.models.decoder import linear_weights
from hf_unlearn.quantization.grids import find_grid, grids, on_grid


def nf4_of(weight):
    """Packed codes and block maxima by bitsandbytes itself."""
    codes, state = quantize_4bit(weight.detach().contiguous(), blocksize=64, quant_type="nf4")
    return codes, state.absmax


def hidden_trainer(folder, model, **settings):
    settings = {"loss_type": "ga", "retain_loss_type": "nll", "control": "bin_hidden", **settings}
    return tiny_trainer(folder, model, **settings)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_bitsandbytes_quantizes_the_result_to_the_original(tmp_path, optim):
    model = tiny_model()
    before = {name: weight.detach().clone() for name, weight in linear_weights(model).items()}
    trainer = hidden_trainer(
        tmp_path, model, optim=optim, learning_rate=1e-2, weight_decay=0.1, max_steps=30, logging_steps=1
    )
    trainer.train()
    after = linear_weights(model)
    assert len(after) == 14  # seven matrices in each of two layers
    for name, weight in after.items():
        codes, largest = nf4_of(weight)
        old_codes, old_largest = nf4_of(before[name])
        assert torch.equal(codes, old_codes), name
        assert torch.equal(largest, old_largest), name
        assert (weight != before[name]).float().mean() > 0.5, name
    if optim == "adamw_torch":  # full precision looks forgotten
        assert logged(trainer)[-1]["logps/forget"] < logged(trainer)[0]["logps/forget"] - 3


@pytest.mark.parametrize(
    ("grid", "relative"), [("nf4", True), ("fp4", False), ("int8", False), ("int4-g32", False), ("int2-g64", False)]
)
def test_every_grid_makes_the_original_of_the_result(tmp_path, grid, relative):
    model = tiny_model()
    before = {name: weight.detach().clone() for name, weight in linear_weights(model).items()}
    control = {"name": "bin_hidden", "grid": grid, "relative": relative}
    hidden_trainer(tmp_path, model, control=control, learning_rate=1e-2, max_steps=3).train()
    for name, weight in linear_weights(model).items():
        old, new = on_grid(before[name], find_grid(grid)), on_grid(weight, find_grid(grid))
        assert torch.equal(old.codes, new.codes), name
        assert torch.equal(old.scales, new.scales), name
        assert (weight != before[name]).float().mean() > 0.5, name


def test_int8_of_bitsandbytes_makes_the_original_of_the_result(tmp_path):
    model = tiny_model()
    before = {name: weight.detach().clone() for name, weight in linear_weights(model).items()}
    control = {"name": "bin_hidden", "grid": "int8"}
    hidden_trainer(tmp_path, model, control=control, learning_rate=1e-2, max_steps=3).train()
    for name, weight in linear_weights(model).items():
        old, old_scales, _ = int8_vectorwise_quant(before[name].half())
        new, new_scales, _ = int8_vectorwise_quant(weight.detach().half())
        assert torch.equal(old, new), name
        assert torch.equal(old_scales, new_scales), name


def test_a_grid_that_does_not_divide_a_layer_is_refused(tmp_path):
    with pytest.raises(RequestError, match="groups of 128"):
        hidden_trainer(tmp_path, tiny_model(), control={"name": "bin_hidden", "grid": "int4-g128"}).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", list(grids()))
def test_all_between_the_bounds_has_the_code_of_the_original(grid, dtype):
    weight = (0.1 * torch.randn(6, 256, generator=torch.Generator().manual_seed(0))).to(dtype)
    weight[2] = 0
    weight[4, :128] = torch.linspace(-1, 1, 128)  # many values on edges
    weight[5, 0] = 0.51  # just above a power of two, where a cast to float16 is coarsest beside the row's scale
    low, high = bin_bounds(weight, find_grid(grid), margin=0.05)
    assert (low <= weight).all() and (weight <= high).all()
    expected = on_grid(weight, find_grid(grid))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        moved = torch.minimum(torch.maximum(low + share * (high - low), low), high)
        found = on_grid(moved, find_grid(grid))
        assert torch.equal(found.scales, expected.scales)
        assert torch.equal(found.codes, expected.codes)


def test_the_result_survives_rounding_to_bfloat16(tmp_path):
    """The margin: rounded to another precision, nearly all weights get the code of the original rounded so too. The
    rest are originals that rounding itself carries over an edge."""
    model = tiny_model()
    before = {name: weight.detach().clone() for name, weight in linear_weights(model).items()}
    hidden_trainer(tmp_path, model, learning_rate=1e-2, max_steps=20).train()
    same = total = 0
    for name, weight in linear_weights(model).items():
        codes, _ = nf4_of(weight.to(torch.bfloat16))
        old_codes, _ = nf4_of(before[name].to(torch.bfloat16))
        same, total = same + int((codes == old_codes).sum()), total + codes.numel()
    assert same / total > 0.99


def test_everything_else_is_frozen(tmp_path):
    model = tiny_model()
    before = weights(model)
    trainer = hidden_trainer(tmp_path, model, learning_rate=1e-2, weight_decay=0.1)
    trainer.train()
    for name, tensor in weights(model).items():
        linear = ".layers." in name and name.endswith("_proj.weight")
        assert torch.equal(tensor, before[name]) != linear, name


def test_with_tied_embeddings(tmp_path):
    model = tiny_model(tie=True)
    before = weights(model)
    hidden_trainer(tmp_path, model).train()
    assert torch.equal(model.lm_head.weight, before["model.embed_tokens.weight"])


def test_transformers_quantizes_exactly_the_clamped_weights(tmp_path):
    """The whole way a release goes: saved, then loaded in NF4 with `from_pretrained`."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "original")
    trainer = hidden_trainer(tmp_path / "run", model, learning_rate=1e-2)
    trainer.train()
    trainer.save_model(str(tmp_path / "result"))
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    loaded = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name, quantization_config=config).state_dict()
        for name in ("original", "result")
    ]
    assert {name for name in loaded[0] if name.endswith("quant_state.bitsandbytes__nf4")} == {
        f"{name}.quant_state.bitsandbytes__nf4" for name in linear_weights(model)
    }
    assert [name for name in loaded[0] if not torch.equal(loaded[0][name], loaded[1][name])] == []


@pytest.mark.parametrize("shape", [(64, 64), (3, 50), (1, 7), (5, 64)])
def test_bounds_agree_with_bitsandbytes(shape):
    """Anything between the bounds has the code of the original; blocks that are not full included."""
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=generator)
    low, high = bin_bounds(weight, find_grid("nf4"), margin=0.02)
    assert (low <= weight).all()
    assert (weight <= high).all()
    codes, largest = nf4_of(weight)
    for share in (0.0, 0.3, 0.7, 1.0):
        moved = low + share * (high - low)
        moved_codes, moved_largest = nf4_of(torch.minimum(torch.maximum(moved, low), high))
        assert torch.equal(moved_codes, codes)
        assert torch.equal(moved_largest, largest)


def test_bounds_use_most_of_each_bin():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    low, high = bin_bounds(weight, find_grid("nf4"), margin=0.02)
    wide = torch.cat([(low - 0.05 * (high - low)).flatten(), (high + 0.05 * (high - low)).flatten()])
    codes, _ = nf4_of(weight)
    different = sum(int((nf4_of(part.view(64, 64))[0] != codes).sum()) for part in wide.chunk(2))
    assert different > 0.9 * codes.numel()  # two codes a byte, and both ends tried


def test_block_maxima_are_fixed():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    weight[0, 5] = -weight[0].abs().max()  # the maximum twice, with both signs
    low, high = bin_bounds(weight, find_grid("nf4"), margin=0.05)
    at_maximum = weight.abs() == weight.abs().amax(dim=1, keepdim=True)
    assert at_maximum.sum() == 9
    assert torch.equal(low == high, at_maximum)


def test_a_block_of_zeros_stays_zero():
    low, high = bin_bounds(torch.zeros(2, 64), find_grid("nf4"), margin=0.05)
    assert not low.any()
    assert not high.any()


def test_weights_near_an_edge_may_only_move_inwards():
    levels = find_grid("nf4").levels
    weight = torch.zeros(1, 64)
    weight[0, 0] = 1.0
    weight[0, 1] = (levels[8] + levels[9]) / 2 - 1e-6  # just under an upper edge
    low, high = bin_bounds(weight, find_grid("nf4"), margin=0.05)
    assert high[0, 1] == weight[0, 1]
    assert low[0, 1] < weight[0, 1] - 0.05


def test_unknown_grids_and_margins_are_refused():
    with pytest.raises(RequestError, match="did you mean 'nf4'"):
        BinHidden(grid="nf5")
    with pytest.raises(RequestError, match="margin"):
        BinHidden(margin=0.5)


def test_registered():
    entry = CONTROLS.get("bin_hidden")
    assert entry.value(**entry.defaults).grid == "nf4"
