"""A method of a recipe: the settings it may have, and the configuration they make."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from transformers import TrainingArguments

from ..errors import EnvironmentFailure, RequestError, one_line
from ..models.adapters import refuse_quantized
from ..registry import PartSpec, part_name, suggest
from ..robust.auto import AUTO_SETTINGS
from ..trainer.config import UnlearnConfig
from ..trainer.inherited import loading_settings
from ..trainer.sign_sgd import SIGN_SGD
from .setting_names import GIVEN_BY_THE_RUN, fit, is_enum, suggest_setting

_OWN_CHOICES = {"optim": (SIGN_SGD,)}
"""Values that the enumerations of transformers do not have."""


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


def unfit(settings: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the types of a method's settings, by name; nothing is said of unknown ones."""
    known, hints, found = method_settings(), _hints(), {}
    whole = completed(settings)
    for name in settings:
        if name in known and name in whole:  # a word such as `learning_rate: auto` is not among them
            try:
                fit(name, whole[name], hints[name], _default(known[name]), _OWN_CHOICES.get(name, ()))
            except RequestError as error:
                found[name] = str(error)
    return found


def method_settings() -> dict[str, Field[Any]]:
    """Fields of :class:`UnlearnConfig` that a method can set, by name."""
    return {field.name: field for field in fields(UnlearnConfig) if field.init and field.name not in GIVEN_BY_THE_RUN}


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
        values[key] = fit(key, value, hints[key], _default(known[key]), _OWN_CHOICES.get(key, ()))
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
    listed = {name: hint for name, hint in parent.items() if any(is_enum(part) for part in get_args(hint))}
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
