"""VerifiedModel loads what was verified and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.errors import RequestError, VerificationError
from hf_unlearn.hub.verified import VerifiedModel, check, load_report


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
    with pytest.raises(VerificationError, match=f"verdict is 'failed', '{require}' is required: bnb-nf4"):
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
    ],
)
def test_arguments_that_load_something_else_are_refused(passed, kwargs: dict) -> None:
    name = next(iter(kwargs))
    with pytest.raises(RequestError, match=f"{name} is refused"):
        VerifiedModel.from_pretrained(passed.main, **kwargs)


def test_harmless_values_of_those_arguments_are_accepted(passed) -> None:
    assert VerifiedModel.from_pretrained(passed.main, trust_remote_code=False, use_safetensors=True) is not None


def test_keys_ask_for_a_signature(passed) -> None:
    with pytest.raises(VerificationError, match="carries no signature"):
        VerifiedModel.from_pretrained(passed.main, trusted_keys=["key.pub"])


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
