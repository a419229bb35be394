"""Settings that one word in a method stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..robust.auto import AUTO_SETTINGS
from .settings import PartSpec, part_name


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings, with those that go with ``robust: auto`` where it names no other.

    Args:
        settings: As written: ``robust`` may be one name, or a list.

    Returns:
        Settings with ``robust`` as a list, where there is one. A method that says how long it is (``max_steps`` or
        ``num_train_epochs``) is as long as it says.
    """
    robust = settings.get("robust")
    if isinstance(robust, str | Mapping):
        settings = {**settings, "robust": [robust]}
        robust = [robust]
    if not (isinstance(robust, Sequence) and any(_is_auto(spec) for spec in robust)):
        return dict(settings)
    added = dict(AUTO_SETTINGS)
    if "max_steps" in settings:
        added.pop("num_train_epochs")
    return {**added, **settings}


def _is_auto(spec: PartSpec) -> bool:
    try:
        return part_name(spec) == "auto"
    except (KeyError, TypeError, ValueError):  # what is wrong with it is told where parts are made
        return False
