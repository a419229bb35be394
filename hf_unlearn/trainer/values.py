"""Values of settings that cannot be meant: text where a number belongs, numbers out of their range."""

from __future__ import annotations

import math
import types
import typing
from dataclasses import fields
from typing import Any

from ..errors import RequestError, one_error
from ..registry import coerce

_NUMBERS = (bool, int, float)
_FOUND = "auto_find_learning_rate=True finds one"


def check_values(config: Any) -> None:
    """Refuse values of the wrong type or out of their range, all of them at once.

    Numbers that are written as text, as YAML reads ``1e-5``, become numbers.

    Args:
        config: A :class:`~hf_unlearn.trainer.config.UnlearnConfig`.

    Raises:
        RequestError: Names each field and what it must be.
    """
    wrong: dict[str, RequestError] = {}
    hints = typing.get_type_hints(type(config))
    for name in (field.name for field in fields(config) if field.init):
        try:
            setattr(config, name, _fitting(name, getattr(config, name), hints[name]))
        except RequestError as error:
            wrong[name] = error
    for name in (name for names, *_ in _RANGES for name in names.split() if name not in wrong):
        if (message := out_of_range(name, getattr(config, name))) is not None:
            wrong[name] = RequestError(message)
    if wrong:
        raise one_error(list(wrong.values()))


def out_of_range(name: str, value: Any) -> str | None:
    """What is wrong with a number with which training would do nothing, or fail at its first step.

    Args:
        name: Of the field.
        value: Of its type.
    """
    for names, fits, wanted in _RANGES:
        if name in names.split() and value is not None and not (math.isfinite(value) and fits(value)):
            return f"{name} is {value}, it must be {wanted}"
    return None


def _fitting(name: str, value: Any, hint: Any) -> Any:
    """A value as its field has it; fields of other types than numbers and plain text are not judged."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    plain = [kind for kind in kinds if kind is not type(None)]
    if plain == [str] and len(kinds) == 1 and not isinstance(value, str):
        raise RequestError(f"{name} is {value!r}, it must be text")
    if len(plain) != 1 or plain[0] not in _NUMBERS:
        return value
    if value is None:
        if len(kinds) == 1:
            raise RequestError(f"{name} has no value: give it one or leave it out")
        return None
    try:
        number = coerce(name, value, plain[0]())
    except RequestError as error:
        raise RequestError(f"{error} ({_FOUND})" if name == "learning_rate" else str(error)) from error
    return number if isinstance(value, str) or plain == [int] else value


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
