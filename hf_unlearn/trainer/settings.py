"""From what stands in a recipe to objects: names and numbers in, losses and parts out, or one sentence why not."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
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
    if not math.isfinite(number):
        raise RequestError(f"{key} is {value!r}, it must be a finite number")
    if isinstance(default, float):
        return number
    if not number.is_integer():
        raise RequestError(f"{key} is {value!r}, it must be a whole number")
    return int(number)


def fit(key: str, value: Any, hint: Any, default: Any) -> Any:
    """Brings a setting to the type its field is declared with.

    Args:
        key: What the setting is called, for the message.
        value: As written by the user.
        hint: The field's type: a class or a union of classes.
        default: The field's default.

    Raises:
        RequestError: If ``value`` is of another kind, or not one of an enumeration's values.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [typing.get_origin(option) or option for option in options]
    if value is None:
        if type(None) not in kinds:
            raise RequestError(f"{key} has no value: give it one or leave it out")
        return value
    choices = [str(member.value) for kind in kinds if _is_enum(kind) for member in kind]
    if choices and str(value) not in choices:
        raise RequestError(f"{key} cannot be {value!r}: {suggest(str(value), choices)}")
    samples = [kind() for kind in kinds if kind in (bool, int, float)]
    if samples and str not in kinds:
        return coerce(key, value, default if isinstance(default, bool | int | float) else samples[0])
    for kind, wanted in ((str, "text"), (list, "a list, as in [a, b]"), (dict, "a mapping of keys to values")):
        if kinds[0] is kind and not isinstance(value, tuple(each for each in kinds if isinstance(each, type))):
            raise RequestError(f"{key} is {value!r}, it must be {wanted}")
    return value


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def check_ranges(config: Any) -> None:
    """Refuses numbers with which training would do nothing, or fail at its first step.

    Raises:
        RequestError: Names the field and its range.
    """
    for names, fits, wanted in _RANGES:
        for name in names.split():
            value = getattr(config, name)
            if value is not None and not (math.isfinite(value) and fits(value)):
                raise RequestError(f"{name} is {value}, it must be {wanted}")


_RANGES: tuple[tuple[str, typing.Callable[[float], bool], str], ...] = (
    ("learning_rate num_train_epochs save_steps logging_steps", lambda value: value > 0, "above 0"),
    (
        "per_device_train_batch_size gradient_accumulation_steps save_total_limit retain_per_forget",
        lambda value: value >= 1,
        "at least 1",
    ),
    ("max_steps", lambda value: value >= -1, "at least 0, or -1 for whole epochs"),
    (
        "weight_decay adam_epsilon max_grad_norm forget_weight retain_weight dataloader_num_workers",
        lambda value: value >= 0,
        "a number of at least 0",
    ),
    ("adam_beta1 adam_beta2", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    ("max_length pass_tokens", lambda value: value >= 2, "at least 2"),
)


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


def part_name(spec: PartSpec) -> str:
    """The name in a specification that :func:`build_part` took."""
    if isinstance(spec, str):
        return str(json.loads(spec)["name"]) if spec.lstrip().startswith("{") else spec
    return str(spec["name"])
