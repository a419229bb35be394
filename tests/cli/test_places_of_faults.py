"""What is found after a recipe was read is told with the line of its own key, or with the override that set it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_recipe import TINY, line_of, write_rows

from hf_unlearn.cli.main import main

FILES = """\
data:
  description: years
  max_length: 64
  forget:
    path: forget.jsonl
    prompt: frage
  retain: {path: retain.jsonl}
"""
Told = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """Plans a recipe and returns key and place of each refusal."""
    monkeypatch.chdir(tmp_path)

    def plan(text: str, *overrides: str) -> list[tuple[str, str]]:
        Path("recipe.yaml").write_text(text)
        assert main(["plan", "recipe.yaml", "--json", "--flops", "1e10", *overrides]) == 2
        found = json.loads(capsys.readouterr().out)["findings"]
        return [(each["key"], each["where"]) for each in found if each["level"] == "refuse"]

    return plan


def with_files(**rows: list[dict]) -> str:
    for name, each in rows.items():
        write_rows(Path(f"{name}.jsonl"), each)
    return TINY[: TINY.index("data:")] + FILES + TINY[TINY.index("methods:") :]


ROWS = [{"frage": f"Who is {n}?", "answer": f"Number {n}."} for n in range(4)]


def test_a_file_that_is_missing_is_told_at_its_path(told):
    text = with_files(retain=[{"prompt": "Who?", "answer": "Nobody."}])
    assert told(text) == [("data.forget.path", f"recipe.yaml:{line_of(text, 'path: forget.jsonl')}")]


def test_a_file_from_the_command_line_is_not_blamed_on_the_recipe(told):
    text = with_files(forget=ROWS, retain=[{"prompt": "Who?", "answer": "Nobody."}])
    assert told(text, "data.retain.path=no.jsonl") == [
        ("data.retain.path", "command line 'data.retain.path=no.jsonl'")
    ]


def test_a_column_that_is_missing_is_told_at_its_name_and_each_set_at_its_own(told):
    text = with_files(forget=[{"prompt": "Who?", "answer": "I."}], retain=[{"x": 1, "y": 2}])
    assert told(text) == [
        ("data.forget.prompt", f"recipe.yaml:{line_of(text, 'prompt: frage')}"),
        ("data.retain.path", f"recipe.yaml:{line_of(text, 'retain: {path')}"),
    ]


def test_a_target_that_is_missing_is_told_at_the_target(told):
    rest = with_files(forget=ROWS, retain=[{"prompt": "Who?", "answer": "Nobody."}])
    rest = rest[rest.index("data:") :].replace("scratch", "")
    text = 'name: tiny\nmodel:\n  min_known: 0\n  never_knew: "other"\n  target: "./my-modle"\n' + rest
    assert ("model.target", f"recipe.yaml:{line_of(text, 'target:')}") in told(text)


def test_limits_are_told_at_their_lines_and_attacks_at_theirs(told):
    for key in ("max_recovered_share_formats", "max_recovered_share_attacks"):
        text = TINY.replace(f"{key}: 0.30", f"{key}: 0.01")
        assert told(text) == [(f"gate.{key}", f"recipe.yaml:{line_of(text, key)}")]
    unfit = TINY.replace("folds: 2", "folds: 40")
    assert told(unfit) == [("attack.rtt", f"recipe.yaml:{line_of(unfit, 'rtt:')}")]
