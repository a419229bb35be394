"""A method of a recipe: the settings it may have, and the configuration they make."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from transformers import TrainingArguments

from ..errors import EnvironmentFailure, RequestError, one_line
from ..models.adapters import refuse_quantized
from ..registry import PartSpec, coerce, part_name, suggest
from ..robust.auto import AUTO_SETTINGS
from ..trainer.config import UnlearnConfig
from ..trainer.inherited import loading_settings
from ..trainer.sign_sgd import SIGN_SGD


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings, with those that belong to ``robust: auto`` unless it sets them itself.

    Args:
        settings: As written: ``robust`` may be one name, or a list.

    Returns:
        Settings with ``robust`` as a list, if there is one, and without the word ``auto`` for a learning rate, which
        is found before training (for ``robust: auto`` also where none is given). A method that sets its own
        length (``max_steps`` or ``num_train_epochs``) keeps it.
    """
    settings = _with_rate(settings)
    robust = settings.get("robust")
    if isinstance(robust, str | Mapping):
        settings = {**settings, "robust": [robust]}
        robust = [robust]
    if not (isinstance(robust, Sequence) and any(_is_auto(spec) for spec in robust)):
        return dict(settings)
    added = dict(AUTO_SETTINGS)
    if "learning_rate" not in settings:
        added["auto_find_learning_rate"] = True
    if "max_steps" in settings:
        added.pop("num_train_epochs")
    return {**added, **settings}


def _with_rate(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """``learning_rate: auto`` as the trainer has it."""
    if settings.get("learning_rate") != "auto":
        return settings
    others = {key: value for key, value in settings.items() if key != "learning_rate"}
    return {**others, "auto_find_learning_rate": True}


def _is_auto(spec: PartSpec) -> bool:
    try:
        return part_name(spec) == "auto"
    except (KeyError, TypeError, ValueError):  # parts report what is wrong with it when they are made
        return False


def fit(key: str, value: Any, hint: Any, default: Any) -> Any:
    """Convert a setting to the declared type of its field.

    Args:
        key: What the setting is called, for the message.
        value: As written by the user.
        hint: The field's type: a class or a union of classes.
        default: The field's default.

    Raises:
        RequestError: If ``value`` has another type, or is not one of an enumeration's values.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [typing.get_origin(option) or option for option in options]
    if value is None:
        if type(None) not in kinds:
            raise RequestError(f"{key} has no value: give it one or leave it out")
        return value
    choices = [str(member.value) for kind in kinds if _is_enum(kind) for member in kind]
    choices += [SIGN_SGD] if key == "optim" else []  # which transformers does not have
    if choices and str(value) not in choices:
        raise RequestError(f"{key} cannot be {value!r}: {suggest(str(value), choices)}")
    samples = [kind() for kind in kinds if kind in (bool, int, float)]
    if samples and str not in kinds:
        return coerce(key, value, default if isinstance(default, bool | int | float) else samples[0])
    for kind, wanted in ((str, "text"), (list, "a list, as in [a, b]"), (dict, "a mapping of keys to values")):
        if kinds[0] is kind and not isinstance(value, tuple(each for each in kinds if isinstance(each, type))):
            raise RequestError(f"{key} is {value!r}, it must be {wanted}")
    return value


def unfit(settings: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the types of a method's settings, by name; nothing is said of unknown ones."""
    known, hints, found = method_settings(), _hints(), {}
    whole = completed(settings)
    for name in settings:
        if name in known and name in whole:  # a word such as `learning_rate: auto` is not among them
            try:
                fit(name, whole[name], hints[name], _default(known[name]))
            except RequestError as error:
                found[name] = str(error)
    return found


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


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


def method_settings() -> dict[str, Field[Any]]:
    """Fields of :class:`UnlearnConfig` that a method can set, by name."""
    return {field.name: field for field in fields(UnlearnConfig) if field.init and field.name not in GIVEN_BY_THE_RUN}


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


def suggest_setting(wrong: str) -> str:
    """A clause that names the nearest setting, or those that unlearning adds: there are over a hundred in all."""
    if wrong.lower() in _OTHER_NAMES:
        return f"did you mean {_OTHER_NAMES[wrong.lower()]!r}?"
    near = suggest(wrong, sorted(method_settings()))
    if near.startswith("did you mean"):
        return near
    inherited = {field.name for field in fields(TrainingArguments)}
    own = ", ".join(sorted(name for name in method_settings() if name not in inherited))
    return f"there are {own}, and the fields of transformers.TrainingArguments (learning_rate, max_steps ...)"


def make_config(settings: Mapping[str, Any], work_dir: Path, seed: int) -> UnlearnConfig:
    """Settings of a recipe as a configuration.

    Args:
        settings: Fields of :class:`UnlearnConfig`.
        work_dir: Where checkpoints go.
        seed: Seed of everything that is drawn.

    Raises:
        RequestError: If a field is unknown (the message names the nearest one), or a value cannot be used.
        EnvironmentFailure: If a setting needs a library that is not installed.
    """
    known, hints = method_settings(), _hints()
    values: dict[str, Any] = {}
    for key, value in completed(settings).items():
        if key in GIVEN_BY_THE_RUN:
            raise RequestError(f"a method cannot set {key!r}: {GIVEN_BY_THE_RUN[key]}")
        if key not in known:
            raise RequestError(f"a method has no setting {key!r}: {suggest_setting(key)}")
        values[key] = fit(key, value, hints[key], _default(known[key]))
    if isinstance(values.get("model_init_kwargs"), str):
        raise RequestError("model_init_kwargs must be a mapping of keys to values")
    # A progress bar is for a terminal; elsewhere the logged losses are lines.
    values.setdefault("disable_tqdm", not sys.stderr.isatty())
    values["model_init_kwargs"] = {"dtype": "float32", **loading_settings(values.get("model_init_kwargs") or {})}
    try:
        config = UnlearnConfig(output_dir=str(work_dir), seed=seed, **values)
    except ImportError as error:
        raise missing_library(error) from error
    except (TypeError, ValueError) as error:
        raise RequestError(f"the method's settings cannot be used: {one_line(error)}") from error
    config.build_alternates()
    if config.peft is None:
        refuse_quantized(values["model_init_kwargs"].get("quantization_config"), "the model")
    _check_reporters(config.report_to)
    return config


def _default(field: Field[Any]) -> Any:
    return None if field.default is MISSING else field.default


def _hints() -> dict[str, Any]:
    """Types of all settings; the parent class's enumeration where it has one, because it knows the choices."""
    parent = get_type_hints(TrainingArguments)
    listed = {name: hint for name, hint in parent.items() if any(_is_enum(part) for part in get_args(hint))}
    return {**get_type_hints(UnlearnConfig), **listed}


def _check_reporters(names: Any) -> None:
    """Refuse a tracker that does not exist, or is not installed, before anything is trained."""
    from .._compat import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

    for name in names or ():
        if name not in INTEGRATION_TO_CALLBACK:
            raise RequestError(f"report_to cannot be {name!r}: {suggest(str(name), sorted(INTEGRATION_TO_CALLBACK))}")
        if name not in get_available_reporting_integrations():
            raise EnvironmentFailure(f"report_to: {name} is not installed: run  pip install {name}")


def missing_library(error: ImportError) -> EnvironmentFailure:
    """The message for a setting that needs a library which is not installed."""
    return EnvironmentFailure(f"the method's settings need a library that is not installed: {one_line(error)}")
