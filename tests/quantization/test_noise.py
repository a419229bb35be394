"""Noise is as large as a grid's error, the same for every model, and nothing that is ever published."""

import pytest
import torch
from safetensors.torch import load_file

from hf_unlearn.errors import RequestError
from hf_unlearn.quantization import FORMATS, export_format
from hf_unlearn.quantization.grids import find_grid, in_groups, on_grid
from hf_unlearn.quantization.noise import DRAWS, NOISE_GRIDS, noisy


def random_weight(*shape, seed=0):
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NOISE_GRIDS)
def test_as_large_as_the_error_of_its_grid_in_every_group(name):
    grid, weight = find_grid(name), random_weight(64, 4096)
    weight[:32] *= 10  # groups of very different size
    error = in_groups(on_grid(weight, grid).dequantized() - weight, grid).square().mean(1).sqrt()
    noise = in_groups(noisy(weight, grid, 1, "layer") - weight, grid).square().mean(1).sqrt()
    # The root mean square of n Gaussian numbers is off by about 1 / sqrt(2 n).
    size = in_groups(weight, grid).shape[1]
    assert ((noise / error - 1).abs() < 6 / (2 * size) ** 0.5).all()
    assert noise.mean() == pytest.approx(float(error.mean()), rel=0.02)


def test_draws_differ_and_repeat():
    weight, grid = random_weight(8, 64), find_grid("nf4")
    assert torch.equal(noisy(weight, grid, 1, "a"), noisy(weight, grid, 1, "a"))
    assert not torch.equal(noisy(weight, grid, 1, "a"), noisy(weight, grid, 2, "a"))
    assert not torch.equal(noisy(weight, grid, 1, "a"), noisy(weight, grid, 1, "b"))


def test_every_model_gets_the_same_noise_but_for_its_size():
    grid = find_grid("int4-channel")
    first, second = random_weight(1, 256), random_weight(1, 256, seed=1)
    a, b = noisy(first, grid, 1, "x") - first, noisy(second, grid, 1, "x") - second
    assert torch.nn.functional.cosine_similarity(a, b).item() > 0.9999


def test_a_folder_with_noise(plain, tmp_path):
    info = export_format("noise-int4-g32-2", plain, tmp_path / "out")
    before, after = load_file(plain / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]) == (not name.endswith("_proj.weight")), name
    assert info.reload_error <= 1e-4
    name = "model.layers.0.mlp.up_proj.weight"
    expected = noisy(before[name], find_grid("int4-g32"), 2, name.removesuffix(".weight"))
    assert torch.equal(after[name], expected)


def test_a_grid_that_does_not_divide_a_layer_is_refused(make_llama, tmp_path):
    source = make_llama(tmp_path / "narrow", hidden=64)
    with pytest.raises(RequestError, match="multiples of 128"):
        FORMATS.get("noise-int4-g128-1").value().check_model(_model(source))
    FORMATS.get("noise-int4-g32-1").value().check_model(_model(source))


def _model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_none_of_it_is_published():
    names = [name for name in FORMATS.names() if name.startswith("noise-")]
    assert len(names) == DRAWS * len(NOISE_GRIDS)
    assert not any(FORMATS.get(name).value.published for name in names)
    assert FORMATS.get("bnb-nf4").value.published
