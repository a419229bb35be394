"""Names and plain types of a method's settings, read from the source of the classes that have them.

Importing those classes takes seconds, and a misspelled setting is told without it. A type of more than Python's own
words, such as an enumeration of transformers, is not judged here.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import operator
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..registry import coerce, suggest
from ..trainer.values import out_of_range

_NOT_FOR_A_METHOD = {
    "it belongs to the run": ("output_dir", "seed", "resume_from_checkpoint", "local_rank"),
    "it holds for every training of the run, attacks too: set data.format.end": ("end",),
    "publishing has its own section and comes after the verdict": (
        *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
        "hub_revision",
    ),
    "nothing is evaluated while a method trains, the evaluate stage does that": (
        *("do_train", "do_eval", "do_predict", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
        *("eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps", "batch_eval_metrics"),
        *("per_device_eval_batch_size", "prediction_loss_only", "include_for_metrics", "bf16_full_eval"),
        *("fp16_full_eval", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    ),
    "code that comes with a model never runs in a recipe": ("trust_remote_code",),
    "the losses of unlearning do not use it": ("label_smoothing_factor", "label_names", "length_column_name"),
}


GIVEN_BY_THE_RUN = {name: why for why, names in _NOT_FOR_A_METHOD.items() for name in names}
"""Fields of UnlearnConfig that a method cannot set, and why."""


def declared_settings() -> dict[str, Any]:
    """Fields of :class:`~hf_unlearn.trainer.config.UnlearnConfig` that a method can set, by name.

    Returns:
        Their types; ``None`` for a type that is not judged here.
    """
    inherited = _inherited_fields()
    # Where the parent class has an enumeration, that is the type that counts.
    own = {name: None if inherited.get(name, hint) is None else hint for name, hint in _own_fields().items()}
    return {name: hint for name, hint in {**inherited, **own}.items() if name not in GIVEN_BY_THE_RUN}


def misfits(settings: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with types and ranges of a method's settings, by name, as far as it can be told here."""
    known, found = declared_settings(), {}
    for name, value in settings.items():
        hint = known.get(name)
        if hint is None or _is_word(name, value):
            continue
        try:
            wrong = out_of_range(name, fit(name, value, hint))
        except RequestError as error:
            wrong = str(error)
        if wrong is not None:
            found[name] = wrong
    return found


def _is_word(name: str, value: Any) -> bool:
    """Whether a recipe may say here what the class has no type for: see ``method_settings.completed``."""
    return (name == "learning_rate" and value == "auto") or (name == "robust" and isinstance(value, str | Mapping))


@functools.cache
def _own_fields() -> dict[str, Any]:
    return _annotations(Path(__file__).parents[1] / "trainer" / "config.py", "UnlearnConfig")


@functools.cache
def _inherited_fields() -> dict[str, Any]:
    spec = importlib.util.find_spec("transformers")  # found, not imported
    assert spec is not None and spec.submodule_search_locations  # the package cannot be installed without it
    return _annotations(Path(spec.submodule_search_locations[0]) / "training_args.py", "TrainingArguments")


def _annotations(file: Path, name: str) -> dict[str, Any]:
    """Annotated names in the body of a class, as its source has them."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    found = next(item for item in body if isinstance(item, ast.ClassDef) and item.name == name)
    return {
        item.target.id: _plain_type(item.annotation)
        for item in found.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not _is_class_variable(item)
    }


def _is_class_variable(item: ast.AnnAssign) -> bool:
    return ast.unparse(item.annotation).startswith(("ClassVar", "typing.ClassVar"))


_WORDS: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


def _plain_type(node: ast.expr) -> Any:
    """The type that an annotation writes; ``None`` if it has other words than Python's own."""
    if isinstance(node, ast.Constant) and node.value is None:
        return types.NoneType
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _plain_type(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id)
    if isinstance(node, ast.Subscript):
        return _plain_type(node.value)  # what is inside is not judged
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        parts = [_plain_type(node.left), _plain_type(node.right)]
        return None if None in parts else functools.reduce(operator.or_, parts)
    return None


def fit(key: str, value: Any, hint: Any, default: Any = None, further: Sequence[str] = ()) -> Any:
    """Convert a setting to the declared type of its field.

    Args:
        key: What the setting is called, for the message.
        value: As written by the user.
        hint: The field's type: a class or a union of classes.
        default: The field's default.
        further: Values besides those of an enumeration.

    Raises:
        RequestError: If ``value`` has another type, or is not one of an enumeration's values.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [typing.get_origin(option) or option for option in options]
    if value is None:
        if type(None) not in kinds:
            raise RequestError(f"{key} has no value: give it one or leave it out")
        return value
    choices = [*(str(member.value) for kind in kinds if is_enum(kind) for member in kind), *further]
    if choices and str(value) not in choices:
        raise RequestError(f"{key} cannot be {value!r}: {suggest(str(value), choices)}")
    samples = [kind() for kind in kinds if kind in (bool, int, float)]
    if samples and str not in kinds:
        try:
            return coerce(key, value, default if isinstance(default, bool | int | float) else samples[0])
        except RequestError as error:
            raise RequestError(f"{error}, or auto" if key == "learning_rate" else str(error)) from error
    for kind, wanted in ((str, "text"), (list, "a list, as in [a, b]"), (dict, "a mapping of keys to values")):
        if kinds[0] is kind and not isinstance(value, tuple(each for each in kinds if isinstance(each, type))):
            raise RequestError(f"{key} is {value!r}, it must be {wanted}")
    return value


def is_enum(kind: Any) -> bool:
    """Whether a type is an enumeration."""
    return isinstance(kind, type) and issubclass(kind, Enum)


_OTHER_NAMES = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "loss": "loss_type",
    "method": "loss_type",
    "retain_loss": "retain_loss_type",
    "lora": "peft",
}
"""Words of other tools for a setting, which no spelling leads to."""


def suggest_setting(wrong: str, further: Sequence[str] = ()) -> str:
    """A clause that names the nearest setting, or those that unlearning adds: there are over a hundred in all.

    Args:
        wrong: What was written.
        further: Keys that may stand beside settings.
    """
    if wrong.lower() in _OTHER_NAMES:
        return f"did you mean {_OTHER_NAMES[wrong.lower()]!r}?"
    near = suggest(wrong, [*further, *sorted(declared_settings())])
    if near.startswith("did you mean"):
        return near
    own = ", ".join(sorted(_own_fields().keys() - _inherited_fields().keys() - GIVEN_BY_THE_RUN.keys()))
    return f"there are {own}, and the fields of transformers.TrainingArguments (learning_rate, max_steps ...)"
