from __future__ import annotations

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_unlearn.errors import RequestError
from hf_unlearn.models.loading import load_model, quantization_method
from hf_unlearn.quantization import export_format
from hf_unlearn.runtime.log_filters import hidden_library_bars


def test_dropout_is_off_and_dtype_is_the_one_asked_for(folder):
    assert load_model(folder).dtype == torch.float32
    model = load_model(folder, "bfloat16")
    assert model.dtype == torch.bfloat16
    assert not any(module.training for module in model.modules())
    with pytest.raises(RequestError, match="no dtype called 'bf16'"):
        load_model(folder, "bf16")


def test_folder_that_lacks_weights_is_refused_instead_of_filled_at_random(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "holes")
    tensors = load_file(tmp_path / "holes" / "model.safetensors")
    for layer in (0, 1):
        for name in ("up", "down"):
            del tensors[f"model.layers.{layer}.mlp.{name}_proj.weight"]
    save_file(tensors, tmp_path / "holes" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"lacks weights.*layers\.0\.mlp\.down_proj\.weight.*and 1 more"):
        load_model(tmp_path / "holes")


def test_damaged_and_missing_folders(folder, tmp_path):
    with pytest.raises(RequestError, match="cannot load a causal language model"):
        load_model(tmp_path)
    shutil.copytree(folder, tmp_path / "cut")
    data = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError, match="cannot load a causal language model"):
        load_model(tmp_path / "cut")


@pytest.mark.parametrize("name, method", [("bnb-int8", "bitsandbytes"), ("rtn-int4-g32", "compressed-tensors")])
def test_quantized_folders_load_as_themselves_without_chatter(name, method, folder, tmp_path, capfd):
    export_format(name, folder, tmp_path / "out")
    model = load_model(tmp_path / "out")
    with torch.no_grad():
        model(torch.tensor([[1, 5, 6]]))
        model.model(torch.tensor([[1, 5, 6]]))  # the backbone alone works too
    assert quantization_method(model) == method
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert quantization_method(load_model(folder)) is None


def test_unpacked_int4_weights_can_be_trained(folder, tmp_path):
    export_format("rtn-int4-g32", folder, tmp_path / "out")
    model = load_model(tmp_path / "out")
    weight = model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    ids = torch.tensor([[1, 5, 6, 7]])
    model(ids, labels=ids).loss.backward()
    assert weight.grad.abs().sum() > 0


def test_other_messages_pass_through_the_hidden_bars(capsys):
    with pytest.raises(ValueError), hidden_library_bars():
        print("Compressing model:  50%|#####     | 7/14", end="\r", file=sys.stderr)
        print("a warning that matters", file=sys.stderr)
        raise ValueError
    assert capsys.readouterr().err == "a warning that matters\n"
