"""Models that are none, that cannot be fetched, or that do not know what they should."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from tiny_recipe import SCRATCH, TINY


@pytest.fixture
def on_target(tmp_path: Path, target: Path) -> Path:
    """The tiny recipe with a model that is there."""
    path = tmp_path / "target.yaml"
    path.write_text(TINY.replace(SCRATCH, f"  target: {target}\n  never_knew: {target}\n"))
    return path


@pytest.fixture
def copy(tmp_path: Path, target: Path) -> Path:
    """A model folder to break."""
    return Path(shutil.copytree(target, tmp_path / "copy"))


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_the_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def unknown_kind(folder: Path) -> None:
    change_config(folder, model_type="abacus")


def other_shapes(folder: Path) -> None:
    change_config(folder, intermediate_size=192)


def another_layer(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3, layer_types=None)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (no_config, "model.target: the folder {folder} holds no config.json, so it is not a saved model"),
        (no_tokenizer, "'{folder}' holds no tokenizer that can be loaded"),
        (broken_config, "model.target: {folder} has a config.json that cannot be used: It looks like the config file"),
        (unknown_kind, "model.target: {folder} has a config.json that cannot be used"),
        (
            no_weights,
            "target: cannot load a causal language model from {folder}: Error no file named model.safe",
        ),
        (
            half_the_weights,
            "target: cannot load a causal language model from {folder}: Error while deserializing",
        ),
        (other_shapes, "target: {folder} holds weights of other shapes than its config.json says"),
        (another_layer, "target: {folder} lacks weights that its config names: model.layers.2."),
    ],
)
def test_a_folder_that_is_no_model(breaking, message, on_target, copy, refused, tmp_path):
    breaking(copy)
    sentence = refused(2, "run", on_target, "--output-dir", tmp_path / "run", "--workers", 0, f"model.target={copy}")
    assert sentence.startswith(message.format(folder=copy))


@pytest.mark.parametrize("key", ["target", "never_knew"])
def test_neither_folder_nor_hub_id(key, on_target, refused):
    sentence = refused(2, "run", on_target, f"model.{key}=./models/typo")
    assert sentence == f"model.{key}: './models/typo' is neither a folder here nor a Hub id"


@pytest.mark.parametrize("key", ["target", "never_knew"])
def test_the_hub_cannot_be_reached(key, on_target, refused, tmp_path):
    out = ("--output-dir", tmp_path / "run")
    sentence = refused(3, "run", on_target, *out, f"model.{key}=owner/model")
    assert sentence.startswith(f"model.{key}: 'owner/model' is not a folder here and the Hub did not give it")


def test_a_request_can_be_mended_in_the_same_folder(on_target, target, refused, tmp_path):
    out = ("--output-dir", tmp_path / "run", "--workers", 0)
    refused(3, "train", on_target, *out, "model.target=owner/model")
    sentence = refused(2, "export", on_target, *out)
    assert sentence.endswith("train is not there yet: run `hf-unlearn train` first")


class _NoSuchThing(BaseHTTPRequestHandler):
    """Answers as the Hub does for a repository, or a revision, that is not there."""

    code = "RepoNotFound"

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub_without_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_NoSuchThing]]:
    """The real client, asking a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NoSuchThing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(_NoSuchThing, "code", "RepoNotFound")
    yield _NoSuchThing
    server.shutdown()
    server.server_close()


def test_the_hub_has_no_such_model(on_target, refused, hub_without_models, monkeypatch):
    sentence = refused(2, "run", on_target, "model.target=owner/typo")
    assert sentence.startswith("model.target: 'owner/typo' is neither a folder here nor a model on the Hub that you")
    monkeypatch.setattr(hub_without_models, "code", "RevisionNotFound")
    sentence = refused(2, "run", on_target, "model.target=owner/typo", "model.target_revision=v9")
    assert sentence == "model.target: 'owner/typo' on the Hub has no revision 'v9'"


def test_a_built_model_that_does_not_know_its_facts(recipe, refused, tmp_path):
    overrides = ("model.min_known=0.95", "model.scratch.epochs=1")
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run", "--workers", 0, *overrides)
    assert "of the forget set (model.min_known asks for 95%): raise model.scratch.epochs" in sentence


def test_two_built_models_with_the_same_seed(recipe, refused, tmp_path):
    controls = "controls=[{name: c, kind: never_knew, expected: passed, seed: 1000}]"
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run", "--workers", 0, controls)
    assert sentence.startswith("two models of the run would be trained from the same rows and seed")
    assert "not 1000, which is that of the never-knew model" in sentence


def test_a_format_that_cannot_hold_the_model_is_refused_before_training(recipe, refused, tmp_path):
    formats = "export.formats=[rtn-int4-g128]"
    sentence = refused(2, "run", recipe, "--output-dir", tmp_path / "run", "--workers", 0, formats)
    assert sentence.startswith("rtn-int4-g128 needs input sizes in multiples of 128")
    assert not (tmp_path / "run" / "train").exists()
