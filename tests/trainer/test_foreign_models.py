"""Folders that are no whole model, or whose code is elsewhere, are refused in one sentence before any work."""

import ast
import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
from tiny_run import tiny_model, tiny_tokenizer, tiny_trainer

import hf_unlearn
from hf_unlearn.errors import RequestError
from hf_unlearn.models.foreign import foreign_code
from hf_unlearn.models.loading import fetch, load_model, read_pretrained


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "start"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    tiny_trainer(folder / "run", model=str(start), peft={"r": 4}).save_model(str(folder / "adapter"))
    return folder / "adapter"


@pytest.mark.parametrize("with_peft", [True, False])
@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_is_no_target(adapter, start, tmp_path, monkeypatch, with_peft, with_config):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    if with_config:
        shutil.copy(start / "config.json", folder)
    if not with_peft:
        monkeypatch.setitem(sys.modules, "peft", None)
    sentence = rf"model: {folder} holds an adapter of '{start}' and not a whole model: merge it into its base first"
    with pytest.raises(RequestError, match=sentence):
        tiny_trainer(tmp_path, model=str(folder))
    with pytest.raises(RequestError, match=sentence.replace("model:", "the model:", 1)):
        load_model(folder)
    with pytest.raises(RequestError, match=sentence.replace("model:", "model.target:", 1)):
        fetch(str(folder), None, "model.target")


def test_an_adapter_on_the_hub_is_no_target(adapter, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(adapter))
    with pytest.raises(RequestError, match=r"model\.target: .* holds an adapter of"):
        fetch("org/adapter", None, "model.target")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(adapter / "adapter_config.json"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # or it is tried again and again
    with pytest.raises(RequestError, match="org/adapter holds an adapter and not a whole model"):
        read_pretrained("org/adapter", "float32")


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"model_type": "llama"}, None),
        ({"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}}, None),
        ({"model_type": "llama", "attn_implementation": "sdpa"}, None),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "x.Y"}}, "auto_map, for the model type 'mine'"),
        ({"auto_map": {"AutoConfig": "x.Y"}}, "auto_map"),
        ({"attn_implementation": "org/kernel"}, "attn_implementation: org/kernel"),
        ({"_attn_implementation_internal": "paged|org/kernel"}, "paged|org/kernel"),
        ({"text_config": {"_attn_implementation": "org/kernel@v1:f"}}, "org/kernel@v1:f"),
        ({"attn_implementation": {"text_config": "org/kernel"}}, "org/kernel"),
        ({"experts_implementation": "org/kernel"}, "experts_implementation: org/kernel"),
    ],
)
def test_code_from_elsewhere_is_found(config, wanted):
    found = foreign_code(config)
    assert (found is None) == (wanted is None) and (wanted or "") in (found or "")


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModelForCausalLM": "code.MineLM"}},
        {"attn_implementation": "org/kernel"},
    ],
)
def test_a_model_that_asks_for_code_is_refused_and_nobody_is_asked(start, tmp_path, monkeypatch, change):
    folder = shutil.copytree(start, tmp_path / "foreign")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    (folder / "code.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on standard input"))
    for load in (
        lambda: tiny_trainer(tmp_path, model=str(folder)),
        lambda: load_model(folder),
        lambda: fetch(str(folder), None, "model.target"),
    ):
        with pytest.raises(RequestError, match=r"config\.json asks for code that is not part of transformers"):
            load()


def test_a_gguf_folder_is_no_target(start, tmp_path):
    folder = tmp_path / "gguf"
    folder.mkdir()
    shutil.copy(start / "config.json", folder)
    (folder / "model-q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(RequestError, match=r"holds its weights in a GGUF file \(model-q4_0\.gguf\)"):
        tiny_trainer(tmp_path, model=str(folder))


def test_a_gguf_file_is_no_folder(tmp_path):
    path = tmp_path / "model-q4_0.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(RequestError, match=r"model-q4_0\.gguf is no GGUF file that can be read"):
        tiny_trainer(tmp_path, model=str(path))
    # Where a folder is meant, no file is converted.
    for load in (
        lambda: load_model(path),
        lambda: fetch(str(path), None, "model.target"),
    ):
        with pytest.raises(RequestError, match=r"is a GGUF file and not a model folder: put it into a folder"):
            load()


def test_a_repository_of_gguf_files_alone_is_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(RequestError, match=r"model\.target: 'org/gguf' on the Hub holds no config\.json.*GGUF"):
        fetch("org/gguf", None, "model.target")


def test_nobody_is_ever_asked_whether_code_may_run():
    """transformers asks on standard input where the argument is left out."""
    package = Path(hf_unlearn.__file__).parent
    calls = [
        (f"{path.relative_to(package)}:{node.lineno}", {keyword.arg for keyword in node.keywords})
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id.startswith("Auto")
    ]
    assert len(calls) > 8
    # Theirs: read_pretrained, which always passes it on, and a model that was built here.
    theirs = {"models/loading.py", "models/scratch.py"}
    asked = [place for place, names in calls if "trust_remote_code" not in names]
    assert {place.partition(":")[0] for place in asked} <= theirs and len(asked) <= 2, asked


def test_a_half_trained_model_is_no_reference_for_a_run_that_goes_on(start, tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    tiny_trainer(tmp_path, model=str(start), **settings).train()
    checkpoint = str(tmp_path / "checkpoint-1")
    half = tiny_trainer(tmp_path, model=checkpoint, max_steps=2)
    with pytest.raises(RequestError, match="compare with the model as it was before any step, so give the target"):
        half.train(resume_from_checkpoint=checkpoint)
    with_reference = tiny_trainer(tmp_path, model=checkpoint, ref_model=str(start), max_steps=2)
    with_reference.train(resume_from_checkpoint=checkpoint)
    assert with_reference.state.global_step == 2


def test_a_run_does_not_go_on_without_the_state_of_its_optimizer(start, tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    tiny_trainer(tmp_path, model=str(start), **settings).train()
    again = tiny_trainer(tmp_path, model=str(start), **settings)
    with pytest.raises(RequestError, match=r"checkpoint-1 holds the model alone \(save_only_model\)"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert again.state.global_step == 0
