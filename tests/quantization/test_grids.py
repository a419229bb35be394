"""Grids computed here are those that the libraries really store."""

import math

import pytest
import torch
from safetensors import safe_open

from hf_unlearn.errors import RequestError
from hf_unlearn.quantization.explain import grid_of
from hf_unlearn.quantization.grids import find_grid, grids, integer_grid, on_grid
from hf_unlearn.quantization.rtn import SIZES, rounded


def random_weight(*shape, seed=0, dtype=torch.float32):
    return (0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 128), (3, 50), (1, 7)])
@pytest.mark.parametrize("levels", ["nf4", "fp4"])
def test_four_bit_codes_of_bitsandbytes(levels, shape, dtype):
    from bitsandbytes import functional

    weight = random_weight(*shape, dtype=dtype)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=levels)
    mine = on_grid(weight, find_grid(levels))
    assert torch.equal(mine.scales.flatten(), state.absmax)
    assert torch.equal(mine.dequantized().to(dtype), functional.dequantize_4bit(packed, state))
    # The stored nibbles themselves, not only what they stand for.
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()[: weight.numel()]
    stored = state.code[codes.long()].view(shape)
    assert torch.equal(stored, mine.levels()[mine.restore(mine.codes).long()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_codes_of_bitsandbytes(dtype):
    from bitsandbytes import functional

    weight = random_weight(16, 96, dtype=dtype)
    weight[3] = 0
    codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
    mine = on_grid(weight, find_grid("int8"))
    assert torch.equal(mine.restore(mine.codes).int() - 127, codes.int())
    torch.testing.assert_close(mine.scales.flatten() * 127, scales.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("model", ["plain", "odd"])
@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-fp4", "bnb-int8"])
def test_codes_in_a_folder_of_bitsandbytes(name, model, exported, request):
    folder = request.getfixturevalue(model)
    target, _ = exported(name, folder)
    with (
        safe_open(folder / "model.safetensors", "pt") as source,
        safe_open(target / "model.safetensors", "pt") as written,
    ):
        layers = [key.removesuffix(".weight") for key in source.keys() if key.endswith("_proj.weight")]  # noqa: SIM118
        assert layers
        for layer in layers:
            stored = written.get_tensor(f"{layer}.weight")
            mine = on_grid(source.get_tensor(f"{layer}.weight"), find_grid(name.removeprefix("bnb-")))
            if name == "bnb-int8":
                assert torch.equal(mine.restore(mine.codes).int() - 127, stored.int()), layer
                continue
            codes = torch.stack([stored.flatten() >> 4, stored.flatten() & 15], dim=1).flatten()
            levels = written.get_tensor(f"{layer}.weight.quant_map")[codes.long()]
            assert torch.equal(levels.view(mine.shape), mine.levels()[mine.restore(mine.codes).long()]), layer
            assert torch.equal(mine.scales.flatten(), written.get_tensor(f"{layer}.weight.absmax")), layer


@pytest.mark.parametrize("model", ["plain", "odd"])
@pytest.mark.parametrize("name", ["rtn-int8-channel", "rtn-int4-g128", "rtn-int4-g32", "rtn-int2-g32"])
def test_codes_in_a_folder_of_compressed_tensors(name, model, exported, request):
    folder, grid = request.getfixturevalue(model), grid_of(name)
    bits = round(math.log2(len(grid.levels)))
    target, _ = exported(name, folder)
    with (
        safe_open(folder / "model.safetensors", "pt") as source,
        safe_open(target / "model.safetensors", "pt") as written,
    ):
        layers = [key.removesuffix(".weight") for key in source.keys() if key.endswith("_proj.weight")]  # noqa: SIM118
        assert layers
        for layer in layers:
            weight = source.get_tensor(f"{layer}.weight")
            mine = on_grid(weight, grid, weight.dtype)
            scales = written.get_tensor(f"{layer}.weight_scale")
            assert torch.equal(mine.scales.view(scales.shape), scales.float()), layer
            packed = written.get_tensor(f"{layer}.weight_packed")
            # As many codes as fit in each int32, the first in the lowest bits, counted from zero.
            shifts = range(0, 32, bits)
            codes = torch.stack([packed >> shift & 2**bits - 1 for shift in shifts], dim=-1).flatten(1)
            assert torch.equal(codes.short(), mine.restore(mine.codes)), layer


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_every_size_of_round_to_nearest(stored):
    weight = random_weight(6, 256, dtype=stored)
    weight[2] = 0
    for bits, group_size in SIZES:
        mine = on_grid(weight, integer_grid(bits, group_size), stored)
        assert torch.equal(mine.dequantized(), rounded(weight, bits, group_size, stored)), (bits, group_size)


def test_integer_grids_span_twice_the_largest_magnitude():
    weight = random_weight(4, 64)
    for bits in (2, 3, 4, 8):
        placed = on_grid(weight, integer_grid(bits, 32))
        assert placed.grid.levels[0] == -(2 ** (bits - 1))
        assert len(placed.grid.levels) == 2**bits
        largest = weight.view(8, 32).abs().amax(1, keepdim=True)
        torch.testing.assert_close(placed.scales * (2**bits - 1), 2 * largest)
        # The largest lies on the end of the grid, half a step from its level but for the last digit.
        assert ((placed.dequantized() - weight).abs() <= placed.restore(placed.steps()) * 0.50001).all()


def test_steps_are_the_distance_of_levels():
    placed = on_grid(random_weight(2, 64), integer_grid(4, 32))
    assert torch.equal(placed.steps(), placed.scales.expand(-1, 32))
    weight = torch.zeros(1, 64)
    weight[0, 0], weight[0, 1] = 1.0, 0.3
    steps = on_grid(weight, find_grid("nf4")).steps()[0]
    levels = torch.tensor(find_grid("nf4").levels)
    torch.testing.assert_close(steps[2], (levels[8] - levels[6]) / 2)  # the bin around zero


def test_blocks_that_are_not_full():
    weight = random_weight(3, 50)
    for name in ("nf4", "int8", "int4-channel"):
        assert on_grid(weight, find_grid(name)).dequantized().shape == weight.shape
    with pytest.raises(RequestError, match="groups of 32"):
        on_grid(weight, find_grid("int4-g32"))


def test_zeros_stay_zeros():
    for grid in grids().values():
        assert not on_grid(torch.zeros(2, 128), grid).dequantized().any(), grid.name


def test_unknown_names_are_refused():
    with pytest.raises(RequestError, match="did you mean 'nf4'"):
        find_grid("nf5")
