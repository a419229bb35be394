"""The JSON schema of recipes for editors: it takes every built-in recipe, and marks what is wrong."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from hf_unlearn.cli.main import main
from hf_unlearn.recipe import builtin_recipes
from hf_unlearn.recipe.schema import recipe_schema
from hf_unlearn.runtime.strict_yaml import read_yaml


@pytest.fixture(scope="module")
def validator() -> Any:
    """A validator of the schema, which is itself valid."""
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def quickstart() -> dict[str, Any]:
    """A recipe as data."""
    return read_yaml(builtin_recipes()["quickstart"]).plain()


@pytest.mark.parametrize("name", builtin_recipes())
def test_every_builtin_recipe_fits(validator: Any, name: str) -> None:
    errors = [error.message for error in validator.iter_errors(read_yaml(builtin_recipes()[name]).plain())]
    assert errors == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "mehtods", []),
        ("gate", "max_recoverd_share_formats", 0.1),
        ("gate", "draws", "many"),
        ("model", "dtype", 8),
        ("data", "format", {"kind": "caht"}),
        ("publish", "private", "perhaps"),
        ("attack", "tier", "extreme"),
    ],
)
def test_what_is_wrong_is_marked(
    validator: Any, quickstart: dict[str, Any], section: str | None, key: str, value: Any
) -> None:
    place = quickstart if section is None else quickstart.setdefault(section, {})
    place[key] = value
    assert not validator.is_valid(quickstart)


def test_a_misspelled_setting_of_a_method_is_marked(validator: Any, quickstart: dict[str, Any]) -> None:
    quickstart["methods"][0]["learning_rat"] = 1e-5
    assert not validator.is_valid(quickstart)


def test_keys_have_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    gate = schema["properties"]["gate"]["anyOf"][0]["properties"]
    assert gate["draws"]["description"] == "Bootstrap draws."
    assert schema["properties"]["methods"]["items"]["properties"]["learning_rate"]["description"]
