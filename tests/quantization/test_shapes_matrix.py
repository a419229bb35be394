"""Every format on every kind of checkpoint: it works and says what it quantized, or refuses before training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from text_models import calibration, save_model, skip_without
from transformers import AutoModelForCausalLM

from hf_unlearn.errors import RequestError
from hf_unlearn.models.loading import empty_model, load_model
from hf_unlearn.quantization import FORMATS, export_format
from hf_unlearn.quantization.base import ExportInfo
from hf_unlearn.stages.preflight import check_exportable

KINDS = ["llama", "tied", "biased", "neox", "sharded", "mixtral", "qwen3-moe"]
EXPERTS = ("mixtral", "qwen3-moe")
# One of each back end; `make test-all` runs them all.
QUICK = ["bf16", "bnb-nf4", "bnb-int8", "rtn-int4-g32", "awq-int4-g32", "gptq-int4-g32"]
# Draws of the same noise differ in nothing that matters here.
ALL = [name for name in FORMATS.names() if not (name.startswith("noise") and not name.endswith("-1"))]


@dataclass(frozen=True)
class Model:
    """A checkpoint on disk."""

    kind: str
    folder: Path

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What its files hold."""
        return stored(self.folder)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {key: item for file in folder.glob("*.safetensors") for key, item in load_file(file).items()}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal in type, shape and every value."""
    return one.dtype == other.dtype and torch.equal(one, other)


def kept(key: str, after: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether a weight was left as it is; biases of packed layers are written in float16."""
    return torch.allclose(after.float(), before.float(), atol=1e-3) if key.endswith(".bias") else same(after, before)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """A kind to a checkpoint of it, made once."""
    done: dict[str, Model] = {}

    def get(kind: str) -> Model:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind) / "model"
            if kind == "sharded":
                save_model(folder, shard="200KB")
                assert len(list(folder.glob("*.safetensors"))) > 2
            else:
                save_model(folder, kind)
            done[kind] = Model(kind, folder)
        return done[kind]

    return get


@pytest.fixture(scope="module")
def made(model_of, tmp_path_factory):
    """A format's name and a kind to the folder and its info, made once. Tests must not write there."""
    done: dict[tuple[str, str], tuple[Path, ExportInfo]] = {}

    def get(name: str, kind: str) -> tuple[Path, ExportInfo]:
        if (name, kind) not in done:
            target = tmp_path_factory.mktemp("made") / "out"
            done[name, kind] = (target, export_format(name, model_of(kind).folder, target, calibration()))
        return done[name, kind]

    return get


@pytest.fixture(scope="module", params=KINDS)
def model(request, model_of) -> Model:
    return model_of(request.param)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
)
def test_a_format_works_or_refuses_before_training(name, model, made, tmp_path):
    skip_without(name)
    value = FORMATS.get(name).value
    try:
        value().check(empty_model(model.folder))
    except RequestError as error:
        assert str(error).startswith(f"{name} cannot ") or str(error).startswith(f"{name} needs ")
        # What is refused for a whole family must be what the family's format says of itself.
        assert model.kind not in EXPERTS or not value.holds_experts or "gguf" in name
        with pytest.raises(RequestError, match=name):
            export_format(name, model.folder, tmp_path / "out", calibration())
        assert not (tmp_path / "out").exists()
        return
    folder, info = made(name, model.kind)
    assert info.reload_error <= info.tolerance
    after = stored(folder)
    if not after:
        return  # a GGUF file renames every tensor; its own tests look into it
    if model.kind == "neox":  # GPT-QModel writes the head under its name in the model, which loads as well
        after = {key.replace("lm_head.", "embed_out."): item for key, item in after.items()}
    before = model.tensors
    size = sum(item.numel() for item in before.values())
    left = sum(item.numel() for key, item in before.items() if key in after and kept(key, after[key], item))
    if info.quantized_share < 1:
        # AWQ scales normalization weights too, which are no quantized weights.
        assert 1 - left / size == pytest.approx(info.quantized_share, abs=0.005)
    if model.kind == "tied":
        assert "lm_head.weight" not in after
    elif info.quantized_share < 1:
        head = "embed_out.weight" if model.kind == "neox" else "lm_head.weight"
        assert torch.equal(after[head], before[head]), "the head is not quantized"
    if model.kind in EXPERTS and name != "bf16" and info.quantized_share < 1:
        assert info.quantized_share < 0.2, "attention only: what is said to be quantized leaves the experts out"


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_that_would_load_as_random_numbers_are_refused_in_a_run(kind, tmp_path):
    folder = save_model(tmp_path / kind, kind)
    for name in ("gptq-int4-g32", "awq-int4-g32", "rtn-int4-g32"):
        with pytest.raises(
            RequestError, match=rf"{name} cannot hold the experts of this model \(model\.layers\.0\.mlp"
        ):
            check_exportable(["bf16", name], folder)
    check_exportable(["bf16", "bnb-nf4"], folder)


@pytest.mark.parametrize("name", ["bnb-nf4", "awq-int4-g32"])
def test_a_sharded_checkpoint_gives_the_same_weights_as_one_file(name, made):
    skip_without(name)
    one, other = (stored(made(name, kind)[0]) for kind in ("llama", "sharded"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_biases_of_attention_stand_in_the_packed_file(model_of, made):
    skip_without("gptq-int4-g32")
    folder, (target, _) = model_of("biased").folder, made("gptq-int4-g32", "biased")
    before, after = stored(folder), stored(target)
    biases = [key for key in before if key.endswith(".bias")]
    assert len(biases) == 6
    assert all(torch.allclose(after[key].float(), before[key].float(), atol=1e-3) for key in biases)
    model = load_model(target)
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(40).view(2, 20)
    with torch.inference_mode():
        ours, theirs = model(input_ids=ids).logits, source(input_ids=ids).logits
    assert (ours - theirs).norm() < 0.3 * theirs.norm()
    assert json.loads((target / "config.json").read_text())["model_type"] == "qwen2"
