"""A token in a recipe is refused where it stands, and is neither printed nor written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.evaluation.suites.loading import builtin_suites, load_suite
from hf_unlearn.recipe import builtin_recipes, load_recipe
from hf_unlearn.runtime.secrets import looks_secret, redact, takes_secret

HUB_TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"
OTHER = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    "override",
    [
        f"methods.0.model_init_kwargs={{token: {OTHER}}}",
        f"methods.0.model_init_kwargs.token={OTHER}",
        f"methods.0.model_init_kwargs.use_auth_token={OTHER}",
        f"methods.0.model_init_kwargs={{headers: {{api-key: {OTHER}}}}}",
        f"methods.0.hub_token={OTHER}",
        f"methods.0.loss_kwargs={{beta: {HUB_TOKEN}}}",
        f"data.description=ask with {HUB_TOKEN}",
        f"model.target=https://me:{OTHER}@hub.example/model",
        f"methods.0.report_to=[{HUB_TOKEN}]",
        f"{HUB_TOKEN}=1",
        "methods.0.model_init_kwargs.token=1234567890123456",
    ],
)
def test_a_secret_is_refused_and_not_said(override: str, tmp_path: Path, capfd):
    out = tmp_path / "run"
    assert main(["run", "quickstart", "--output-dir", str(out), override]) == 2
    said = capfd.readouterr()
    told = said.out + said.err
    assert "holds a secret" in told and "HF_TOKEN" in told and told.count("\n") == 1
    for secret in (HUB_TOKEN, OTHER, "1234567890123456"):
        assert secret not in told
    assert not out.exists()


def test_a_secret_in_a_file_is_named_by_its_line(tmp_path: Path, capfd):
    text = builtin_recipes()["quickstart"].read_text()
    path = tmp_path / "recipe.yaml"
    path.write_text(text + f"\nextra:\n  token: {OTHER}\n")
    assert main(["run", str(path), "--output-dir", str(tmp_path / "run")]) == 2
    told = capfd.readouterr().err
    assert f"{path}:{text.count(chr(10)) + 3}: extra.token holds a secret" in told and OTHER not in told


@pytest.mark.parametrize("value", ["true", "false", "null"])
def test_the_login_of_the_machine_may_be_asked_for(value: str):
    load_recipe("quickstart", [f"methods.0.model_init_kwargs={{token: {value}}}"])


def test_what_is_no_secret_is_none():
    for key in ("max_new_tokens", "first_token", "pad_token", "batch_tokens", "tokenizer", "key", "authors"):
        assert not takes_secret(key)
    for key in ("token", "hub_token", "HF_TOKEN", "api_key", "apikey", "wandb-api-key", "password", "client_secret"):
        assert takes_secret(key)
    for name in builtin_recipes():
        load_recipe(name)
    for text in ("hf_short", "birth years of 400 people", "https://huggingface.co/owner/name", 3, None):
        assert not looks_secret(text)
    assert redact(f"a {HUB_TOKEN} b") == "a *** b"


@pytest.mark.parametrize(
    "override",
    [
        f"attack.rtt={{token: {OTHER}}}",
        f"publish.description=ask with {HUB_TOKEN}",
        f"data.forget.path=https://me:{OTHER}@hub.example/rows.jsonl",
    ],
)
def test_a_request_to_attack_is_searched_too(override: str, tmp_path: Path, capfd):
    """All of it, also the sections of a recipe that attacking a single model does not read."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Who?", "answer": "Ada"}\n')
    for source in (["--recipe", "quickstart"], ["--data", str(rows)]):
        assert main(["attack", str(tmp_path), "--attack", "rtt", *source, override]) == 2
        told = capfd.readouterr().err
        assert "holds a secret" in told and told.count("\n") == 1
        assert HUB_TOKEN not in told and OTHER not in told


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"    revision: {HUB_TOKEN}", "suite.yaml:5: set.forget.revision holds a secret"),
        (f"    api_key: {OTHER}", "suite.yaml:5: set.forget.api_key holds a secret"),
        (f"target: https://me:{OTHER}@hub.example/model", "suite.yaml:5: target holds a secret"),
    ],
)
def test_a_suite_is_searched_too(line: str, said: str, tmp_path: Path, capfd):
    path = tmp_path / "suite.yaml"
    path.write_text(f"name: mine\nset:\n  forget:\n    path: rows.jsonl\n{line}\n")
    assert main(["evaluate", str(tmp_path), "--suite", str(path)]) == 2
    told = capfd.readouterr().err
    assert said in told and HUB_TOKEN not in told and OTHER not in told
    path.write_text("name: mine\nset:\n  forget:\n    path: rows.jsonl\n")
    assert main(["evaluate", str(tmp_path), "--suite", str(path), f"set.forget.dataset={HUB_TOKEN}"]) == 2
    told = capfd.readouterr().err
    assert "holds a secret" in told and HUB_TOKEN not in told


def test_suites_of_the_package_hold_none():
    for name in builtin_suites():
        load_suite(name)


@pytest.mark.parametrize(
    "assignment",
    [f"methods.0.token={{{OTHER}", f"methods.7.hub_token={OTHER}", f"name.{HUB_TOKEN}", f"methods.0.x=[{HUB_TOKEN}"],
)
def test_an_assignment_that_cannot_be_read_is_quoted_without_it(assignment: str, capfd):
    assert main(["run", "quickstart", assignment]) == 2
    told = capfd.readouterr().err
    assert "***" in told and HUB_TOKEN not in told and OTHER not in told
