"""A model that does not fit one device is spread, and its scores are those of the same model in one piece.

Without several accelerators, memory and disk of the machine stand in for them: the layers on disk are read into memory
one by one, by the same hooks that pass states from one accelerator to the next.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.generic import score_generic
from hf_unlearn.evaluation.run import EvalSpec, SetScoring, score_sets
from hf_unlearn.evaluation.spec import set_requests
from hf_unlearn.models import loading
from hf_unlearn.models.loading import load_model, read_pretrained
from hf_unlearn.models.placement import input_device, needs_several, spread_devices, weight_bytes

SPEC = EvalSpec(metrics=("probability", "rouge_l", "mc_accuracy"), max_new_tokens=4)
NEEDS = {"forget": SetScoring(needs=("vocabulary", "layers"))}
GIB = 2**30


@pytest.fixture(scope="module")
def spread(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """Half of the layers in memory, the rest and the head on disk."""
    device_map = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    device_map |= {"model.norm": "disk", "model.rotary_emb": "cpu", "lm_head": "disk"}
    model = read_pretrained(
        folder, torch.float32, device_map=device_map, offload_folder=tmp_path_factory.mktemp("disk")
    )
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu", "meta"}
    return model


def test_scores_and_texts_are_the_same(spread, folder, tokenizer, sets, make_row):
    whole, requests = load_model(folder), set_requests(sets, SPEC, NEEDS)
    generic = [make_row("g0", "", "A long river ran by the old town.")]
    found = []
    for model in (whole, spread):
        records = score_sets(model, tokenizer, sets, TextFormat(), requests, Passes(64))
        records += score_generic(model, whole, tokenizer, generic, TextFormat(), max_new_tokens=4)
        found.append([record.to_json() for record in records])
    assert found[0] == found[1] and any(json.loads(line)["layer_logps"] for line in found[0])


def test_what_needs_all_weights_is_refused(spread, tokenizer, sets):
    requests = set_requests(sets, SPEC, {"forget": SetScoring(needs=("gradient",))})
    with pytest.raises(RequestError, match=r"gradient norms need all weights in memory, and some .* on disk"):
        score_sets(spread, tokenizer, sets, TextFormat(), requests, Passes(64))


def test_inputs_go_where_the_first_layer_is():
    meta = torch.device("meta")
    model = SimpleNamespace(device=meta, hf_device_map={"a": "disk", "b": 0, "c": 1})
    assert input_device(model) == torch.device("cuda", 0)
    assert input_device(SimpleNamespace(device=meta)) == torch.device("cpu")
    assert input_device(SimpleNamespace(device=torch.device("cuda", 1))) == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("weights", "devices", "expected"),
    [
        (15 * GIB, (80 * GIB,) * 8, False),
        (66 * GIB, (80 * GIB,) * 8, True),
        (15 * GIB, (80 * GIB, 16 * GIB), True),  # all processes decide alike, also the one on the smaller device
        (999 * GIB, (80 * GIB,), False),
    ],
)
def test_when_a_model_is_spread(weights, devices, expected):
    assert needs_several(weights, devices) is expected


def test_weights_are_counted_as_they_are_read(tmp_path):
    (tmp_path / "model-1.safetensors").write_bytes(bytes(600))
    (tmp_path / "model-2.safetensors").write_bytes(bytes(400))
    assert weight_bytes(tmp_path, "float32") == 1000
    for config, expected in (
        ({"dtype": "bfloat16"}, 2000),
        ({"torch_dtype": "float32"}, 1000),
        ({"dtype": "bfloat16", "quantization_config": {"bits": 4}}, 1000),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert weight_bytes(tmp_path, "float32") == expected
    assert weight_bytes(tmp_path / "an-id-on-the-hub", "float32") == 0


def test_a_model_is_loaded_over_the_devices_only_if_it_has_to(folder, monkeypatch):
    """With accelerators that are only said to be there: what is asked of transformers."""
    asked = []

    def stop(*args, device_map, **kwargs):
        asked.append(device_map)
        raise RequestError("far enough")

    monkeypatch.setattr(loading, "read_pretrained", stop)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for memory, device in ((GIB, None), (1, None), (1, "cuda:0")):
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda number, memory=memory: SimpleNamespace(total_memory=memory)
        )
        with pytest.raises(RequestError, match="far enough"):
            load_model(folder, device=device)
    one, several, given = asked
    assert one == {"": torch.device("cuda:1")} and several == "auto" and given == {"": torch.device("cuda:0")}
    assert spread_devices(folder, "float32") == "auto"
