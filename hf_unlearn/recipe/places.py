"""Where keys stand in a recipe's file, for findings that come after it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.strict_yaml import Located, override, read_yaml
from .loading import find_recipe


@dataclass(frozen=True)
class Places:
    """The tree of a recipe.

    Attributes:
        tree: As it was read, overrides included.
    """

    tree: Located

    def at(self, key: str) -> str | None:
        """``file:line`` of a key such as ``methods.0.peft``, or of the nearest part of it; ``None`` for no part."""
        steps = [int(step) if step.isdigit() else step for step in key.split(".")]
        found = self.tree.at(*steps)
        return None if found == self.tree.where else found


def places_of(path: Path | str, overrides: Sequence[str] = ()) -> Places:
    """The places of a recipe's keys.

    Args:
        path: The YAML file, or the name of a recipe that comes with the package.
        overrides: ``section.key=value`` assignments.

    Raises:
        RequestError: The file cannot be read.
    """
    tree = read_yaml(find_recipe(path))
    for assignment in overrides:
        tree = override(tree, assignment)
    return Places(tree)
