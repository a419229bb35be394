"""A JSON schema of recipes, for editors: they complete keys, show what each means and mark what is misspelled.

It is made from the dataclasses that read a recipe. It says less than they do: what passes here may still be refused.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..attacks import ATTACKS, TIERS
from ..losses import FORGET_LOSSES, RETAIN_LOSSES
from .meanings import attribute_docs
from .method_settings import method_settings
from .spec import Recipe

Schema = dict[str, Any]
# YAML of version 1.1 reads 1e-5 as text; a recipe takes it as the number it is.
_NUMBER: Schema = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[+-]?[0-9.]+[eE][+-]?[0-9]+$"}]}
_PLAIN: dict[Any, Schema] = {
    str: {"type": ["string", "number"]},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: _NUMBER,
    type(None): {"type": "null"},
    Any: {},
}


def recipe_schema() -> Schema:
    """The schema, as ``hf-unlearn list schema`` prints it."""
    whole = _of_dataclass(Recipe)
    properties = {**whole["properties"], "methods": _methods(), "attack": _attacks()}
    properties.pop("attack_tier")  # in the file it is attack.tier
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hf_unlearn recipe",
        **whole,
        "properties": properties,
    }


def _of_dataclass(cls: type) -> Schema:
    hints, meanings = typing.get_type_hints(cls), attribute_docs(cls)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    properties = {field.name: _described(_of(hints[field.name]), meanings.get(field.name, "")) for field in fields}
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def _described(schema: Schema, meaning: str) -> Schema:
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", meaning).replace("``", "")
    return {"description": text, **schema} if text else schema


def _of(hint: Any) -> Schema:
    """The schema of one type."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if dataclasses.is_dataclass(hint):
        return {
            "anyOf": [_of_dataclass(typing.cast(type, hint)), {"type": "null"}]
        }  # an empty section is its defaults
    if origin is Literal:
        return {"enum": list(inside)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(part) for part in inside]}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(inside[1])}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"type": "array", "items": _of(inside[0])}
    raise TypeError(f"a recipe has a key of the type {hint}, which the schema for editors does not know")


def _methods() -> Schema:
    """Names of losses are offered, not demanded: a loss may also be a mapping, or one that is added later."""
    known = {name: _described({}, str(field.metadata.get("help", ""))) for name, field in method_settings().items()}
    known |= {
        "name": {"type": "string", "description": "Name of the method in folders and reports."},
        "loss_type": _offered(FORGET_LOSSES.names()),
        "retain_loss_type": _offered(RETAIN_LOSSES.names()),
    }
    known |= {name: {"type": "string"} for name in ("checkpoint", "revision")}
    method = {"type": "object", "properties": known, "additionalProperties": False, "required": ["name"]}
    return {"type": "array", "minItems": 1, "items": method, "description": "The methods that are compared."}


def _offered(names: Sequence[str]) -> Schema:
    return {"anyOf": [{"enum": list(names)}, {}]}


def _attacks() -> Schema:
    """Attacks by name; other keys are attacks under names of their own."""
    known: Schema = {"tier": {"enum": list(TIERS)}}
    # false leaves out an attack of the tier
    kinds = ["object", "boolean", "null"]
    known |= {entry.name: {"description": entry.summary, "type": kinds} for entry in ATTACKS.entries()}
    return {"type": ["object", "null"], "properties": known}
