"""Numbers of a configuration that nothing can hold are refused before anything is built of them."""

import json

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.models import loading, sizes
from hf_unlearn.models.loading import fetch, load_model
from hf_unlearn.models.scratch import ScratchSpec
from hf_unlearn.models.sizes import refuse_sizes

LLAMA = {"model_type": "llama", "vocab_size": 128_256, "hidden_size": 16_384, "num_hidden_layers": 126}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 2_000_000_000}, "vocab_size is 2000000000, and no model has more than"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
        ({"text_config": {"vocab_size": 2_000_000_000}}, r"config\.json, text_config: vocab_size is 2000000000"),
        ({"num_local_experts": 10**8}, "num_local_experts is 100000000"),
        (
            {"vocab_size": 20_000_000, "hidden_size": 1_000_000},
            r"is 2\.0e\+13 numbers, and this machine has 8\.0e\+09",
        ),
    ],
)
def test_a_folder_is_refused_before_it_is_loaded(change, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "machine_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(loading, "AutoModelForCausalLM", None)
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **change}))
    for load in (lambda: fetch(str(tmp_path), None, "model.target"), lambda: load_model(tmp_path)):
        with pytest.raises(RequestError, match=said):
            load()


def test_the_largest_models_pass(monkeypatch):
    monkeypatch.setattr(sizes, "machine_memory", lambda: 8 * 10**9)
    refuse_sizes(LLAMA, "here")
    refuse_sizes({**LLAMA, "vocab_size": None, "hidden_size": "wide", "num_hidden_layers": True}, "here")


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "layers", "max_positions", "intermediate_size"])
def test_a_model_from_scratch_is_refused_with_its_key(key):
    with pytest.raises(RequestError, match=r"scratch model: \w+ is 2000000000, and no model has more than"):
        ScratchSpec(**{key: 2_000_000_000})
