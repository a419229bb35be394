"""The one registry idiom: a decorator that carries a name and what people need to know about the thing.

``hf-unlearn list``, the tables in the docs and the recipe checks are all made from these entries.
A new loss, format, attack or metric is one new file with one decorated object: the package that holds the
file imports all its modules when the registry is first read.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from .errors import RequestError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing.

    Attributes:
        name: What users write in a recipe.
        value: The registered class or function.
        summary: One line.
        paper: Where it comes from, for example ``"arXiv 2404.05868, eq. 3"``.
        defaults: Hyperparameters with their default values.
        needs: What it needs, in words from a closed list per registry (``"reference"``, ``"retain"``, ``"options"``,
            ``"generation"``, an extra's name ...).
        version: Of scores only: raised whenever the same records would give other numbers, so that numbers of two
            versions are not compared.
        tier: Of attacks only: the smallest tier that it is in (``quick``, ``release`` or ``deep``); empty where it is
            run by name only.
    """

    name: str
    value: T
    summary: str
    paper: str = ""
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    needs: tuple[str, ...] = ()
    version: int | None = None
    tier: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What ``hf-unlearn list --json`` prints."""
        return {
            "name": self.name,
            "summary": self.summary,
            "paper": self.paper,
            "defaults": dict(self.defaults),
            "needs": list(self.needs),
            **({} if self.version is None else {"version": self.version}),
            **({"tier": self.tier} if self.tier else {}),
        }


class Registry(Generic[T]):
    """Named entries of one kind, filled by the modules of one or more packages."""

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self._packages = packages
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(
        self,
        name: str,
        *,
        summary: str,
        paper: str = "",
        defaults: Mapping[str, Any] | None = None,
        needs: tuple[str, ...] = (),
        version: int | None = None,
        tier: str = "",
    ) -> Callable[[T], T]:
        """Decorator that registers a class or function under ``name``."""

        def add(value: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            frozen = MappingProxyType(dict(defaults or {}))
            self._entries[name] = Entry(name, value, summary, paper, frozen, needs, version, tier)
            return value

        return add

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for package_name in self._packages:
            package = importlib.import_module(package_name)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package_name}.{module.name}")

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._entries)

    def entries(self) -> list[Entry[T]]:
        """All entries, sorted by name."""
        return [self._entries[name] for name in self.names()]

    def get(self, name: str) -> Entry[T]:
        """The entry called ``name``; a :class:`RequestError` naming the nearest one if there is none."""
        self._load()
        if name not in self._entries:
            raise RequestError(f"there is no {self.kind} called {name!r}: {suggest(name, self.names())}")
        return self._entries[name]


def suggest(wrong: str, right: list[str]) -> str:
    """A clause that names the nearest right word, or all of them."""
    near = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(right)}"
