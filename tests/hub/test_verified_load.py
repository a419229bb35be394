"""VerifiedModel loads what was verified and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.cli.main import main
from hf_unlearn.errors import RequestError, VerificationError
from hf_unlearn.hub.verified import VerifiedModel, check, load_report
from hf_unlearn.verification.report_file import canonical, seal


def test_loads_the_plain_model(passed, exported) -> None:
    tokens = torch.tensor([[1, 4, 3]])
    expected = AutoModelForCausalLM.from_pretrained(exported.main)
    for folder in (passed.main, str(passed.main)):
        model = VerifiedModel.from_pretrained(folder)
        assert type(model) is type(expected)
        assert torch.equal(model(tokens).logits, expected(tokens).logits)
    variant = VerifiedModel.from_pretrained(passed.variant, dtype="auto")
    assert variant.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(passed.main).pad_token == "<pad>"


@pytest.mark.parametrize(("require", "accepted"), [("passed", False), ("inconclusive", False), ("any", True)])
def test_the_required_verdict(failed, require: str, accepted: bool) -> None:
    if accepted:
        assert VerifiedModel.from_pretrained(failed.main, require=require) is not None
        return
    with pytest.raises(VerificationError, match=f"verdict is 'failed', '{require}' is required: In bnb-nf4, "):
        VerifiedModel.from_pretrained(failed.main, require=require)


@pytest.mark.parametrize("require", ["passed", "any"])
def test_a_changed_folder_is_never_loaded(copied: Path, require: str) -> None:
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(VerificationError, match=r"model\.safetensors: is not the file that was verified"):
        VerifiedModel.from_pretrained(copied, require=require)
    (copied / "more.txt").write_text("x")
    with pytest.raises(VerificationError, match=r"\(and 2 more\)"):
        VerifiedModel.from_pretrained(copied, require=require)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"trust_remote_code": True},
        {"quantization_config": object()},
        {"load_in_4bit": True},
        {"subfolder": "x"},
        {"use_safetensors": False},
        {"config": object()},
        {"num_hidden_layers": 1},
        {"hidden_act": "relu"},
        {"rms_norm_eps": 0.1},
        {"key_mapping": {"a": "b"}},
        {"vocab_size": 3},
        {"model_type": "gpt2"},
        {"ignore_mismatched_sizes": True},
        {"use_kernels": True},
        {"generation_config": object()},
        {"output_loading_info": True},
        {"num_hidden_layers": None},
    ],
)
def test_arguments_that_load_something_else_are_refused(passed, kwargs: dict) -> None:
    name = next(iter(kwargs))
    with pytest.raises(RequestError, match=f"{name} is refused"):
        VerifiedModel.from_pretrained(passed.main, **kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"attn_implementation": "org/kernel"},
        {"attn_implementation": {"": "org/kernel"}},
        {"device_map": "meta"},
        {"device_map": {"": "meta"}},
        {"dtype": "int8"},
    ],
)
def test_values_that_load_something_else_are_refused(passed, kwargs: dict) -> None:
    with pytest.raises(RequestError, match=rf"^{next(iter(kwargs))}=.* is refused"):
        VerifiedModel.from_pretrained(passed.main, **kwargs)


def test_precision_place_and_attention_are_passed_on(passed) -> None:
    model = VerifiedModel.from_pretrained(
        passed.main, require="any", dtype=torch.bfloat16, device_map="cpu", attn_implementation="eager"
    )
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"


def resealed(folder: Path, name: str) -> Path:
    """The whole folder is by its publisher: the report is made to fit a file that was changed."""
    report = json.loads((folder / "unlearning_report.json").read_bytes())
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    report["files"][name] = report["models"]["unlearned"]["files"]["identity"][name] = digest
    (folder / "unlearning_report.json").write_bytes(canonical(seal(report)))
    return folder


def test_a_config_that_asks_for_a_kernel(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((copied / "config.json").read_bytes())
    (copied / "config.json").write_text(json.dumps({**config, "attn_implementation": "org/kernel"}))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # refused before anything is fetched
    with pytest.raises(VerificationError, match="attn_implementation: org/kernel"):
        VerifiedModel.from_pretrained(resealed(copied, "config.json"), require="any")


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_weights_that_are_made_anew_or_left_over(copied: Path, change: str) -> None:
    file = copied / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("norm.weight"))
    changed = dict(tensors, **{"model.extra.weight": tensors[name].clone()})
    if change == "missing":
        changed = {key: tensor for key, tensor in tensors.items() if key != name}
    save_file(changed, file, metadata={"format": "pt"})
    with pytest.raises(VerificationError, match=name if change == "missing" else r"model\.extra\.weight"):
        VerifiedModel.from_pretrained(resealed(copied, "model.safetensors"), require="any")


def test_harmless_values_of_those_arguments_are_accepted(passed) -> None:
    assert (
        VerifiedModel.from_pretrained(passed.main, require="any", trust_remote_code=False, use_safetensors=True)
        is not None
    )


def test_an_empty_list_of_keys_is_a_mistake(passed) -> None:
    for nothing in ([], "", ()):
        with pytest.raises(RequestError, match="trusted_keys is empty"):
            VerifiedModel.from_pretrained(passed.main, trusted_keys=nothing)


def test_a_pinned_report_and_no_other(passed) -> None:
    digest = check(passed.main).report_digest
    assert VerifiedModel.from_pretrained(passed.main, report_digest=digest) is not None
    assert check(passed.main, report_digest=digest[:8].upper()).intact
    for wrong in (digest[:7], digest + "0", "sha256:" + digest, "", "g" * 8):
        with pytest.raises(RequestError, match="must be the digest that `hf-unlearn check` prints"):
            check(passed.main, report_digest=wrong)
    other = ("0" if digest[0] != "0" else "1") + digest[1:8]
    assert not check(passed.main, report_digest=other).intact
    assert main(["check", str(passed.main), "--report-digest", digest[:8]]) == 0
    assert main(["check", str(passed.main), "--report-digest", other]) == 1
    with pytest.raises(VerificationError, match=r"unlearning_report\.json: is not the requested one"):
        VerifiedModel.from_pretrained(passed.variant, report_digest=digest)


def test_a_format_that_was_scored_and_not_judged(exported, publishing, reporting, tmp_path: Path) -> None:
    """Its verdict would be that of other formats."""
    report = reporting(exported.files)
    report["recovered"] = [row for row in report["recovered"] if row["transform"] != "bnb-nf4"]
    made = publishing(exported, tmp_path, report)
    assert VerifiedModel.from_pretrained(made.main) is not None
    with pytest.raises(VerificationError, match="'bnb-nf4' was scored but not judged, 'passed' is required"):
        VerifiedModel.from_pretrained(made.variant)
    assert VerifiedModel.from_pretrained(made.variant, require="any") is not None


def test_a_format_that_was_never_scored(exported, publishing, reporting, tmp_path: Path) -> None:
    report = reporting(exported.files)
    report["scores"] = [row for row in report["scores"] if (row["model"], row["transform"]) != ("npo", "bnb-nf4")]
    made = publishing(exported, tmp_path, report)
    for require in ("passed", "any"):
        with pytest.raises(VerificationError, match="holds no score in the format 'bnb-nf4' that this folder is in"):
            VerifiedModel.from_pretrained(made.variant, require=require)


def test_a_file_that_is_touched_while_the_model_loads(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between hashing and reading there is time; a write in it is found when the model is there."""
    stock = AutoModelForCausalLM.from_pretrained
    weights = copied / "model.safetensors"

    def swapped(folder: str, **kwargs: object) -> object:
        data, times = weights.read_bytes(), weights.stat()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        model = stock(folder, **kwargs)
        weights.write_bytes(data)
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", swapped)
    with pytest.raises(VerificationError, match=r"model\.safetensors was changed while it was being loaded"):
        VerifiedModel.from_pretrained(copied)
    assert check(copied).intact


def test_a_private_copy_is_out_of_reach(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights on a CPU are read from their file as they are used; from a copy nobody can change them any more."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    tokens = torch.tensor([[1, 4, 3]])
    model = VerifiedModel.from_pretrained(copied, private_copy=True)
    assert not list((tmp_path / "tmp").iterdir()) and model.name_or_path == str(copied)
    before = VerifiedModel.from_pretrained(copied, private_copy=True)(tokens).logits
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[len(data) // 4 :] = bytes(len(data) - len(data) // 4)
    with (copied / "model.safetensors").open("r+b") as file:
        file.write(data)
    assert torch.equal(model(tokens).logits, before)
    with pytest.raises(VerificationError, match=r"model\.safetensors: is not the file that was verified"):
        VerifiedModel.from_pretrained(copied, private_copy=True)
    (copied / "link").symlink_to("/etc/hostname")
    with pytest.raises(VerificationError, match="link: is a link"):
        VerifiedModel.from_pretrained(copied, private_copy=True)
    assert not list((tmp_path / "tmp").iterdir())
    with pytest.raises(RequestError, match="exclude each other"):
        VerifiedModel.from_pretrained(copied, private_copy=True, reuse_digests=True)


def test_a_file_that_appears_while_the_model_loads(copied: Path) -> None:
    result = check(copied)
    result.still_stands()
    (copied / "adapter_config.json").write_text("{}")
    with pytest.raises(VerificationError, match=r"adapter_config\.json was changed"):
        result.still_stands()


def test_a_model_type_that_is_code_elsewhere(copied: Path) -> None:
    """The whole folder is by its publisher, report and all: nothing was changed, and still no code is fetched."""
    config = json.loads((copied / "config.json").read_bytes())
    config |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "somebody/else--model.Mine"}}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        VerificationError, match=r"config\.json asks for code that is not part of transformers \(auto_map.*'mine'"
    ):
        VerifiedModel.from_pretrained(resealed(copied, "config.json"), require="any")


def test_wrong_arguments(passed, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="require='maybe'"):
        VerifiedModel.from_pretrained(passed.main, require="maybe")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="has no revision"):
        VerifiedModel.from_pretrained(passed.main, revision="v1")
    for wrong in (tmp_path / "none", str(tmp_path / "none"), "a/b/c"):
        with pytest.raises(RequestError, match="neither a folder nor an id on the Hub"):
            check(wrong)


def test_load_report_from_all_places(passed, tmp_path: Path) -> None:
    report = load_report(passed.main)
    assert load_report(passed.main / "unlearning_report.json") == report
    (tmp_path / "verify").mkdir()
    shutil.copyfile(passed.main / "unlearning_report.json", tmp_path / "verify" / "unlearning_report.json")
    assert load_report(tmp_path) == report
    shutil.rmtree(tmp_path / "verify")
    with pytest.raises(RequestError, match="cannot be read as a report"):
        load_report(tmp_path)


@pytest.mark.parametrize("where", [None, "", 5])
def test_no_place_is_refused(where):
    for ask in (VerifiedModel.from_pretrained, load_report, check):
        with pytest.raises(RequestError, match=f"there is no model {where!r}: give a folder, or an id on the Hub"):
            ask(where)
