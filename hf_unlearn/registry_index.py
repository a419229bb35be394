"""What the registries with modules that need torch hold, kept in a file: names are listed and checked without torch.

``python docs/tables.py --write`` makes the file from the registries, and a test holds the two equal. A module that the
file does not know (a new loss is one new file) makes a registry read its modules as if there were no file.
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

INDEX = Path(__file__).with_name("registered.json")


def module_names(package: str) -> list[str]:
    """Full names of the modules of a package, sorted. The package is imported, its modules are not."""
    folder = importlib.import_module(package).__path__
    return sorted(f"{package}.{module.name}" for module in pkgutil.iter_modules(folder))


def indexed_entries(kind: str, modules: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """Entries of a registry as plain data, by name.

    Args:
        kind: The registry's kind.
        modules: Its modules as they are now.

    Returns:
        ``None`` if the index does not have the registry, or was made from other modules.
    """
    section = _index().get(kind)
    if section is None or section["modules"] != list(modules):
        return None
    return {entry["name"]: dict(entry) for entry in section["entries"]}


def index_text(registries: Mapping[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]]) -> str:
    """The file's content.

    Args:
        registries: Modules and entries of each registry, by its kind.
    """
    whole = {
        kind: {"modules": list(modules), "entries": [dict(entry) for entry in entries]}
        for kind, (modules, entries) in registries.items()
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


@functools.cache
def _index() -> dict[str, Any]:
    return dict(json.loads(INDEX.read_text(encoding="utf-8")))
