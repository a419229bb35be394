"""Weights compared with the target's: known changes give known numbers, read from folders one tensor at a time."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_models import save_model
from transformers import AutoModelForCausalLM

from hf_unlearn.errors import RequestError
from hf_unlearn.quantization import explain
from hf_unlearn.quantization.explain import (
    Comparison,
    FolderTensors,
    compare_weights,
    explain_folders,
    explain_job,
    grids_of,
    lost_when_saved,
    quantized_names,
)
from hf_unlearn.quantization.grids import find_grid, integer_grid

KINDS = ("llama", "tied", "biased", "neox", "mixtral", "qwen3-moe")


def random_weight(*shape, seed=0):
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def copy_with(folder, target, change, shards=None):
    """A copy of a model whose tensors went through ``change(name, tensor)``."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(change(name, parameter))
    model.save_pretrained(target, **({"max_shard_size": shards} if shards else {}))
    return target


def test_an_untouched_weight_changes_nothing():
    weight = random_weight(64, 128)
    found = compare_weights(weight, weight.clone(), [find_grid("nf4"), find_grid("int8")]).to_dict()
    assert found["moved"] == 0 and found["mean_update"] == 0
    assert found["lost_in_bf16"] is None  # nothing moved
    for grid in found["grids"].values():
        assert grid == {"codes_changed": 0, "scales_changed": 0, "update_over_step": 0}


def test_a_step_of_one_bin_changes_every_code():
    """All but the largest of each group move up by one whole step of INT4."""
    weight = random_weight(8, 64).clamp(-0.05, 0.05)
    weight[:, ::32] = 0.2  # the largest of each group stays, and so do all scales
    step = 0.2 / 7.5
    moved = torch.where(weight == 0.2, weight, weight + step)
    found = compare_weights(weight, moved, [integer_grid(4, 32)]).to_dict()
    grid = found["grids"]["int4-g32"]
    assert found["moved"] == 31 / 32
    assert grid["codes_changed"] == 31 / 32
    assert grid["scales_changed"] == 0
    assert grid["update_over_step"] == pytest.approx(31 / 32, rel=1e-4)


def test_a_move_within_its_bin_changes_no_code():
    weight = torch.full((4, 32), 0.02)
    weight[:, 0] = 0.75  # steps of 0.1, the rest lies in the bin around zero
    found = compare_weights(weight, torch.where(weight == 0.75, weight, -weight), [integer_grid(4, 32)]).to_dict()
    assert found["moved"] == 31 / 32
    assert found["grids"]["int4-g32"]["codes_changed"] == 0
    assert found["grids"]["int4-g32"]["update_over_step"] == pytest.approx(0.4 * 31 / 32, rel=1e-4)


def test_a_new_largest_weight_changes_its_scale():
    weight = random_weight(4, 64)
    moved = weight.clone()
    moved[1, 3] = 2.0
    for name, groups in (("nf4", 4), ("int4-g32", 8), ("int8", 4)):
        found = compare_weights(weight, moved, [find_grid(name)]).grids[name]
        assert (found.groups, found.rescaled) == (groups, 1), name


def test_updates_lost_in_bfloat16():
    weight = torch.ones(1, 64)
    moved = weight.clone()
    moved[0, :16] += 1e-4  # far less than the 2^-8 that a bfloat16 number near one can move
    moved[0, 16:32] += 0.1
    found = compare_weights(weight, moved, []).to_dict()
    assert found["moved"] == 0.5
    assert found["lost_in_bf16"] == 0.5


def test_rounding_alone_is_no_move():
    weight = random_weight(16, 64)
    for kind in (torch.bfloat16, torch.float16):
        assert compare_weights(weight, weight.to(kind), []).moved == 0
    assert compare_weights(weight, weight.to(torch.bfloat16).float(), []).moved == 0


def test_magnitudes():
    weight = torch.tensor([[0.3, -0.3, 0.01, 0.0, 3.0, 1e-7]])
    moved = weight.clone()
    moved[0, 0] += 0.1
    moved[0, 3] = 0.2
    rows = compare_weights(weight, moved, []).magnitudes()
    assert [(row["from"], row["to"]) for row in rows] == [
        (None, 2.0**-12),
        (2.0**-7, 2.0**-6),
        (0.25, 0.5),
        (0.5, None),
    ]
    assert [row["weights"] for row in rows] == [2 / 6, 1 / 6, 2 / 6, 1 / 6]
    assert [row["moved"] for row in rows] == [0.5, 0, 0.5, 0]
    assert rows[2]["mean_update"] == pytest.approx(0.05)


def test_parts_add_up_to_the_whole(monkeypatch):
    before, after = random_weight(192, 96), random_weight(192, 96, seed=1)
    chosen = [find_grid(name) for name in ("nf4", "int8", "int4-g32")]
    whole = compare_weights(before, after, chosen)
    monkeypatch.setattr(explain, "CHUNK_WEIGHTS", 64 * 96)
    parts = compare_weights(before, after, chosen)
    assert parts.grids.keys() == whole.grids.keys()
    assert {name: grid.changed for name, grid in parts.grids.items()} == {
        name: grid.changed for name, grid in whole.grids.items()
    }
    assert parts.grids["nf4"].groups == whole.grids["nf4"].groups == 192 * 96 // 64
    assert (parts.weights, parts.moved, parts.lost) == (whole.weights, whole.moved, whole.lost)
    assert parts.grids["nf4"].steps == pytest.approx(whole.grids["nf4"].steps)
    assert (parts.weights, parts.moved, parts.lost) == (whole.weights, whole.moved, whole.lost)
    assert parts.grids["nf4"].steps == pytest.approx(whole.grids["nf4"].steps)
    assert (Comparison() + whole).to_dict() == whole.to_dict()


@pytest.mark.parametrize("shards", [None, "200KB"])
def test_folders(plain, tmp_path, shards):
    """The second layer's gate is doubled, all else stays: codes stay, scales change, in that layer alone."""
    changed = "model.layers.1.mlp.gate_proj.weight"
    after = copy_with(plain, tmp_path / "after", lambda name, t: 2 * t if name == changed else t, shards)
    assert (after / "model.safetensors.index.json").exists() == (shards is not None)
    found = explain_folders(plain, after, ["nf4", "int4-g32"])
    names = quantized_names(plain)
    weights = {name: FolderTensors(plain)[name].numel() for name in names}
    assert len(names) == 14 and "lm_head.weight" not in names
    assert found["weights"] == sum(weights.values())
    assert found["moved"] == pytest.approx(weights[changed] / found["weights"])
    first, second = found["layers"]
    assert (first["layer"], second["layer"]) == ("0", "1")
    assert first["moved"] == 0 and first["grids"]["nf4"]["scales_changed"] == 0
    share = weights[changed] / second["weights"]
    for grid in second["grids"].values():
        assert grid["codes_changed"] == 0
        assert grid["scales_changed"] == pytest.approx(share)


def test_the_head_and_the_embeddings_are_left_out(odd, tmp_path):
    """Tied embeddings, bfloat16, biases."""
    after = copy_with(odd, tmp_path / "after", lambda name, t: t + 1 if "embed" in name or "bias" in name else t)
    assert explain_folders(odd, after, ["int8"])["moved"] == 0


def test_what_cannot_be_compared_gives_its_reason(plain, make_llama, tmp_path):
    other = make_llama(tmp_path / "other", hidden=64)
    with pytest.raises(RequestError, match="another shape"):
        explain_folders(plain, other, ["nf4"])
    assert "another shape" in explain_job(plain, other, ["nf4"])["reason"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no safetensors"):
        FolderTensors(tmp_path / "empty")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    tensors = load_file(plain / "model.safetensors")
    save_file({f"other.{name}": tensor for name, tensor in tensors.items()}, renamed / "model.safetensors")
    shutil.copy(plain / "config.json", renamed)
    reason = explain_job(plain, renamed, ["nf4"])["reason"]
    assert "lacks weights that its config names" in reason and str(tmp_path) not in reason


@pytest.mark.parametrize("kind", KINDS)
def test_names_in_files_are_not_names_of_modules(tmp_path, kind):
    """Every second weight of each linear layer is doubled, and so every family has half of its weights moved."""
    before = save_model(tmp_path / "before", kind)
    linear = quantized_names(before)

    def double(name, tensor):
        return torch.where(torch.arange(tensor.shape[-1]) % 2 == 0, tensor, 2 * tensor) if name in linear else tensor

    after = copy_with(before, tmp_path / "after", double)
    found = explain_folders(before, after, ["int8"])
    model = AutoModelForCausalLM.from_pretrained(after)
    assert found["weights"] == sum(model.get_parameter(name).numel() for name in linear)
    assert found["moved"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_weight_is_looked_at_before_it_is_rounded(tmp_path, kind):
    before = save_model(tmp_path / "before", kind)
    model = AutoModelForCausalLM.from_pretrained(before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[...] = 2 * parameter + 1
    found = lost_when_saved(model, before, "bfloat16")
    assert found["moved"] > 0.999 and found["lost"] < 0.001


def test_formats_know_their_grid():
    names = ["bf16", "bnb-nf4", "bnb-fp4", "bnb-int8", "rtn-int4-g128", "rtn-int4-g32", "noise-nf4-1"]
    assert grids_of(names) == {
        "bnb-nf4": "nf4",
        "bnb-fp4": "fp4",
        "bnb-int8": "int8",
        "rtn-int4-g128": "int4-g128",
        "rtn-int4-g32": "int4-g32",
    }


def test_what_a_checkpoint_in_16_bits_drops(plain):
    model = AutoModelForCausalLM.from_pretrained(plain)
    model.requires_grad_(False)
    weight = model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    assert lost_when_saved(model, plain, "float32") is None
    assert lost_when_saved(model, plain, "bfloat16") == {"dtype": "bfloat16", "moved": 0, "lost": None}
    with torch.no_grad():
        weight[:32] *= 1 + 1e-6
        weight[32:64] *= 2
    found = lost_when_saved(model, plain, "bfloat16")
    assert found["moved"] == pytest.approx(64 / weight.shape[0], abs=0.02)
    assert found["lost"] == pytest.approx(0.5, abs=0.02)
    json.dumps(found)
