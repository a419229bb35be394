"""From what stands in a recipe to objects: names and numbers in, losses and parts out, or one sentence why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError
from ..registry import Registry, suggest

PartSpec = str | Mapping[str, Any]
"""A name, or a mapping with ``name`` and parameters. On a command line the mapping is written as JSON."""


def coerce(key: str, value: Any, default: Any) -> Any:
    """Brings a setting to the kind of its default, where that can be done without guessing.

    YAML reads ``1e-5`` as text; a number given as text is taken as the number.

    Args:
        key: What the setting is called, for the message.
        value: As written by the user.
        default: A value of the right kind. Values are not checked against defaults that are not numbers.

    Raises:
        RequestError: If a number or a truth value is expected and ``value`` is none.
    """
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise RequestError(f"{key} is {value!r}, it must be true or false")
        return value
    if not isinstance(default, int | float) or value is None:
        return value
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise RequestError(f"{key} is {value!r}, it must be a number")
    if isinstance(default, float):
        return number
    if not number.is_integer():
        raise RequestError(f"{key} is {value!r}, it must be a whole number")
    return int(number)


def build(registry: Registry[Any], name: str, parameters: Mapping[str, Any]) -> Any:
    """Makes a registered thing from its name and parameters; parameters not given keep their defaults.

    Raises:
        RequestError: If the name or a parameter is unknown, or a value is refused.
    """
    entry = registry.get(name)
    for key in parameters:
        if key not in entry.defaults:
            known = suggest(key, sorted(entry.defaults)) if entry.defaults else "it has none"
            raise RequestError(f"{registry.kind} {name!r} has no parameter {key!r}: {known}")
    values = {key: coerce(f"{name}.{key}", value, entry.defaults[key]) for key, value in parameters.items()}
    return entry.value(**values)


def build_part(registry: Registry[Any], spec: PartSpec) -> Any:
    """Makes a part from how it is written in a recipe.

    Raises:
        RequestError: If the specification has no name, or see :func:`build`.
    """
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            spec = json.loads(spec)
        except ValueError as error:
            raise RequestError(f"{registry.kind} {spec!r} is neither a name nor JSON: {error}") from error
    if isinstance(spec, str):
        return build(registry, spec, {})
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise RequestError(f"{registry.kind} {spec!r} must be a name, or a mapping with 'name' and parameters")
    return build(registry, spec["name"], {key: value for key, value in spec.items() if key != "name"})
