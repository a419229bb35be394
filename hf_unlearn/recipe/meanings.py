"""What each key of a recipe means, from the docstrings of the dataclasses: for the documentation and for editors."""

from __future__ import annotations

import inspect
import re

_ATTRIBUTE = re.compile(r" {4}(\w+(?:, \w+)*): (.*)")


def attribute_docs(cls: type) -> dict[str, str]:
    """Meaning of every name in the ``Attributes:`` sections of a class and its bases; a line may name several."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= _own_attribute_docs(base)
    return meanings


def _own_attribute_docs(cls: type) -> dict[str, str]:
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    meanings: dict[str, str] = {}
    names: list[str] = []
    start = next((index for index, line in enumerate(lines) if line.strip() == "Attributes:"), len(lines))
    for line in lines[start + 1 :]:
        if line.strip() and not line.startswith(" "):
            break
        found = _ATTRIBUTE.match(line)
        if found:
            names = found[1].split(", ")
            meanings.update(dict.fromkeys(names, found[2]))
        elif line.strip():
            meanings.update({name: f"{meanings[name]} {line.strip()}" for name in names})
    return meanings
